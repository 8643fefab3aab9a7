"""Clean images: a folder per class in, three disjoint stratified splits out."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from harden.decode import MODES, Pixels, UnreadableError, read_picture
from harden.errors import BadData, Inconclusive
from harden.types import Contract, Finding, Images, Progress, Rate, Silent, Splits

FRACTIONS = (0.5, 0.2, 0.3)
"""Of each class for tune, choose and verify."""
MAX_BYTES = 4 * 2**30
"""Of pixels in memory; beyond it, images are taken evenly from every class."""
MIN_READABLE = 0.5
"""Of each class: below it the folder is broken rather than an image or two."""
_CLUTTER = {"thumbs.db", "desktop.ini"}
NAMED = 5
"""Things that a message names before it only counts them."""


def class_folders(folder: Path) -> list[str]:
    """The names of the folders that hold one class each, sorted."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise BadData(
            f"{folder} cannot be read: {error.strerror or error}", hint="--clean-dir takes a folder with one per class"
        ) from None
    names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    odd = [name for name in names if name.encode(errors="replace").decode() != name]
    if odd:
        raise BadData(f"{folder}: the name of a class's folder is text in no encoding: {_named(odd)}", hint="rename it")
    if not names:
        loose = sum(entry.is_file() for entry in entries)
        raise BadData(
            f"{folder} holds {loose} files and no folders; one folder per class with its images is expected",
            hint="move the images into folders named after their classes",
        )
    return names


def read_images(
    folder: Path, contract: Contract, *, progress: Progress | None = None, max_bytes: int = MAX_BYTES
) -> tuple[Images, tuple[Finding, ...]]:
    """All images of a folder per class, labelled by the contract's classes and sized as it says."""
    size = contract.input_size
    if size[0] not in MODES:
        raise BadData(
            f"the network takes {size[0]} channels; folders of images have 1, 3 or 4",
            hint="check input_size in the contract",
        )
    files, findings = _files(folder, contract.classes)
    budget = max_bytes // (4 * math.prod(size))
    files, thinned = _thinned(files, budget)
    findings += thinned
    total = sum(map(len, files.values()))
    pixels: Pixels = np.empty((total, *size), dtype=np.float32)  # at once: a stack of single ones is there twice
    labels: list[int] = []
    names: list[str] = []
    changes: Counter[str] = Counter()
    broken: dict[str, list[str]] = {}
    with (progress or Silent()).task("reading images", total) as task:
        for name, paths in files.items():
            for path in paths:
                try:
                    picture, done = read_picture(path, size)
                except UnreadableError as error:
                    broken.setdefault(name, []).append(f"{path.relative_to(folder).as_posix()} ({error})")
                else:
                    pixels[len(names)] = picture
                    labels.append(contract.classes.index(name))
                    names.append(path.relative_to(folder).as_posix())
                    changes.update(done)
                task.advance()
    _enough(files, broken, folder)
    findings += _report(broken, changes, len(names))
    return Images(torch.from_numpy(pixels[: len(names)]), torch.tensor(labels), tuple(names)), tuple(findings)


def split(images: Images, seed: int, fractions: Sequence[float] = FRACTIONS) -> Splits:
    """Three disjoint parts, each class in its shares; at least one image of each class in each part."""
    tune, choose, verify = _stratified(images, seed, fractions)
    return Splits(images.take(tune), images.take(choose), images.take(verify))


def together(*sets: Images) -> Images:
    """All of them as one."""
    names = tuple(name for images in sets for name in images.names)
    return Images(torch.cat([s.pixels for s in sets]), torch.cat([s.labels for s in sets]), names)


def read_samples(
    clean_dir: Path,
    contract: Contract,
    seed: int,
    progress: Progress | None = None,
    verify_dir: Path | None = None,
    fractions: Sequence[float] = FRACTIONS,
) -> Splits:
    """Reads the clean images and splits them; with a folder for verifying, the first tunes and chooses alone."""
    images, findings = read_images(clean_dir, contract, progress=progress)
    images, more = without_repeats(images)
    if verify_dir is None:
        made = split(images, seed, fractions)
        return Splits(made.tune, made.choose, made.verify, findings + more)
    verify, found = read_images(verify_dir, contract, progress=progress)
    verify, repeats = without_repeats(verify)
    images, overlap = _without(images, verify)
    tune, choose = _stratified(images, seed, fractions[:2])
    return Splits(images.take(tune), images.take(choose), verify, findings + more + found + repeats + overlap)


def without_repeats(images: Images) -> tuple[Images, tuple[Finding, ...]]:
    """Each picture once: a copy in another split would let a decision read what the report is measured on."""
    first: dict[str, int] = {}
    keep, repeated, torn = [], [], []
    for index, digest in enumerate(_digests(images)):
        known = first.setdefault(digest, index)
        if known == index:
            keep.append(index)
        elif images.labels[known] == images.labels[index]:
            repeated.append(images.names[index])
        else:
            torn.append(f"{images.names[known]} = {images.names[index]}")
    findings = []
    if repeated:
        findings.append(Finding("data-repeated", "low", f"{len(repeated)} copies left out: {_named(repeated)}"))
    if torn:
        message = f"{len(torn)} images stand under two classes, the second one was left out: {_named(torn)}"
        findings.append(Finding("data-two-classes", "medium", message))
    return (images.take(torch.tensor(keep)) if len(keep) < len(images) else images), tuple(findings)


def check_preprocessing(
    accuracy: Rate, num_classes: int, *, confusion: Tensor | None = None, classes: Sequence[str] = ()
) -> None:
    """Refuses to go on where the model hardly knows its own clean images: the commonest mistake of all.

    `confusion[i, j]` counts images of class i that the model calls j; with it, another order of the classes is found
    and told. Raises BadData, otherwise returns nothing.
    """
    chance = 1 / num_classes
    bound = chance + 0.15 * (1 - chance)
    if confusion is not None:
        order = _other_order(confusion)
        if order is not None and order[1].value - accuracy.value > 0.3:
            wrong = [(i, j) for i, j in enumerate(order[0]) if i != j]
            names = list(classes) or [str(i) for i in range(num_classes)]
            moves = "; ".join(f"{names[i]!r} -> logit {j}" for i, j in wrong[:12])
            raise BadData(
                f"only {accuracy} of the {accuracy.total} clean images get their class, but {order[1]} would if the "
                f"classes stood in another order: {moves}"
                + (f"; and {len(wrong) - 12} more" if len(wrong) > 12 else ""),
                hint="write classes = [...] in the order of the logits into model.toml",
            )
    if num_classes > 1 and accuracy.total and accuracy.value < bound and accuracy.interval()[1] < 1.5 * bound:
        raise BadData(
            f"only {accuracy} of the {accuracy.total} clean images get their class ({100 * chance:.1f} % would by "
            "guessing): the preprocessing or the order of the classes must be wrong",
            hint="give --mean, --std and --input-size as the training script has them, and in model.toml "
            "classes = [...] in the order of the logits",
        )


def _other_order(confusion: Tensor) -> tuple[list[int], Rate] | None:
    """The logit that each class goes to, if no two go to the same."""
    counts = confusion.detach().cpu()
    best = counts.argmax(1)
    seen = counts.sum(1) > 0
    order = [int(best[i]) if seen[i] else i for i in range(len(counts))]
    if len(set(order)) != len(order) or order == list(range(len(order))):
        return None
    hits = int(sum(counts[i, j] for i, j in enumerate(order)))
    return order, Rate(hits, int(counts.sum()))


def _files(folder: Path, classes: Sequence[str]) -> tuple[dict[str, list[Path]], list[Finding]]:
    """Every file of every class, in the order of the classes."""
    names = class_folders(folder)
    unknown = [name for name in names if name not in classes]
    if unknown:
        raise BadData(
            f"{folder} has folders that are no class of the model: {_named(unknown)}; "
            f"expected are {_named(classes)} ({len(classes)} classes)",
            hint="rename the folders, or name the classes in the order of the logits in model.toml: classes = [...]",
        )
    files: dict[str, list[Path]] = {}
    for name in (c for c in classes if c in names):
        walk = os.walk(folder / name, onerror=_unreadable)
        found = sorted(Path(root) / file for root, _, here in walk for file in here)
        files[name] = [f for f in found if not f.name.startswith(".") and f.name.lower() not in _CLUTTER]
    empty = [name for name, found in files.items() if not found]
    if empty:
        raise BadData(
            f"{folder} has no image for {len(empty)} of its classes: {_named(empty)}",
            hint="put images into these folders, or remove them if the class cannot be checked",
        )
    absent = [name for name in classes if name not in names]
    findings = []
    if absent:
        message = f"{len(absent)} of {len(classes)} classes have no folder and are not measured: {_named(absent)}"
        findings.append(Finding("data-missing-class", "medium", message, str(folder.name)))
    return files, findings


def _unreadable(error: OSError) -> NoReturn:
    """A folder that cannot be listed may hide half of a class."""
    raise BadData(
        f"{error.filename} cannot be read: {error.strerror or error}", hint="make it readable, or move it away"
    ) from None


def _thinned(files: dict[str, list[Path]], budget: int) -> tuple[dict[str, list[Path]], list[Finding]]:
    """Evenly spaced files of each class where all of them would not fit into memory."""
    total = sum(map(len, files.values()))
    if total <= budget:
        return files, []
    each = budget // len(files)
    if not each:
        raise BadData(f"{len(files)} classes of images this large do not fit into memory")
    fewer = {n: paths if len(paths) <= each else [paths[i * len(paths) // each] for i in range(each)]
             for n, paths in files.items()}  # fmt: skip
    kept = sum(map(len, fewer.values()))
    return fewer, [Finding("data-thinned", "info", f"{kept} of {total} images are read, evenly from every class")]


def _enough(files: dict[str, list[Path]], broken: dict[str, list[str]], folder: Path) -> None:
    for name, bad in broken.items():
        if len(files[name]) - len(bad) < max(1, MIN_READABLE * len(files[name])):
            raise BadData(
                f"{len(bad)} of the {len(files[name])} files of class {name!r} in {folder} are no readable images: "
                f"{_named(bad)}",
                hint="a few unreadable images are passed over, but not half a class",
            )


def _report(broken: dict[str, list[str]], changes: Counter[str], total: int) -> list[Finding]:
    findings = [Finding("data-converted", "info", f"{count} of {total} images: {change}")
                for change, count in sorted(changes.items())]  # fmt: skip
    bad = [name for names in broken.values() for name in names]
    if bad:
        findings.append(Finding("data-unreadable", "medium", f"{len(bad)} images were passed over: {_named(bad)}"))
    return findings


def _stratified(images: Images, seed: int, fractions: Sequence[float]) -> list[Tensor]:
    """Positions of each part; the shares of the parts after the first are rounded, the first takes the rest."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(fractions)
    parts: list[list[Tensor]] = [[] for _ in fractions]
    short = []
    for label in images.labels.unique().tolist():
        here = (images.labels == label).nonzero().flatten()
        here = here[torch.randperm(len(here), generator=generator)]
        if len(here) < len(fractions):
            short.append(f"{Path(images.names[int(here[0])]).parts[0]} ({len(here)})")
            continue
        later = [max(1, round(len(here) * share / total)) for share in fractions[1:]]
        while len(here) - sum(later) < 1:
            later[later.index(max(later))] -= 1
        pieces = here.split([len(here) - sum(later), *later])
        for part, piece in zip(parts, pieces, strict=True):
            part.append(piece)
    if short:
        raise Inconclusive(
            f"each class needs at least {len(fractions)} different images to tune, choose and verify on; "
            f"too few have {_named(short)}",
            hint="add images of these classes (30 per class are a good number)",
        )
    return [torch.cat(part).sort().values for part in parts]


def _without(images: Images, other: Images) -> tuple[Images, tuple[Finding, ...]]:
    """Leaves out what is also among the images for verifying."""
    taken = set(_digests(other))
    keep = [i for i, digest in enumerate(_digests(images)) if digest not in taken]
    if len(keep) == len(images):
        return images, ()
    message = f"{len(images) - len(keep)} images are also among those for verifying and were left out"
    return images.take(torch.tensor(keep, dtype=torch.long)), (Finding("data-overlap", "medium", message),)


def _digests(images: Images) -> list[str]:
    return [hashlib.sha256(pixels.numpy().tobytes()).hexdigest() for pixels in images.pixels.cpu()]


def _named(items: Sequence[str]) -> str:
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more
