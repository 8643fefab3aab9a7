"""A trigger that the user has: triggered pictures, a picture with a mask, or code.

from_directory   x~ is read from a file of the same name                          any trigger
from_picture     x~ = (1 - a m) x + a m p      p picture, m mask, a blend          stickers, blends
from_function    x~ = f(x)                     f is the user's code, and trusted   any trigger
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from harden.decode import UnreadableError, read_picture
from harden.errors import BadData, HardenError, UsageError
from harden.network import Classifier, predict
from harden.triggers.attacked import attacked
from harden.types import ClassEvidence, Contract, Evidence, Images, Run, Splits, Trigger

Stamp = Callable[[Tensor], Tensor]
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


@dataclass(frozen=True)
class Given:
    """The user's triggers as evidence, as far as they work on this model."""

    triggers: tuple[Trigger, ...]
    works: float = 0.10
    """Share of the images of other classes that a trigger has to turn, to be the attacker's."""

    def __call__(self, model: Classifier, splits: Splits, run: Run) -> Evidence:  # noqa: ARG002
        found, working = [], []
        right = (predict(model, splits.choose).argmax(1) == splits.choose.labels).nonzero().flatten()
        for trigger in self.triggers:
            on = attacked([trigger], splits.choose if trigger.known else splits.choose.take(right))
            if not len(on.images):
                raise BadData(
                    f"The trigger {trigger.name} could be put on none of the {len(splits.choose)} images for choosing.",
                    hint="Triggered twins need the relative names of the clean images: CLASS/NAME.png.",
                )
            asr = on.success(predict(model, on.images).argmax(1))
            found.append(
                ClassEvidence(-1 if trigger.target is None else trigger.target, asr.value, self.works, "given")
            )
            if asr.total and asr.value > self.works:
                working.append(trigger)
        targets = tuple(sorted({t.target for t in working if t.target is not None}))
        if working:
            return Evidence("backdoored", targets, tuple(found), tuple(working), "the trigger that was given works")
        return Evidence("inconclusive", (), tuple(found), (), "no trigger that was given works on this model")


def from_directory(folder: Path, target: int | None, contract: Contract) -> Trigger:
    """Triggered twins of the clean images under the same relative names; images without a twin are left out."""
    if not folder.is_dir():
        raise BadData(
            f"{folder} is no folder; a folder with triggered twins of the clean images was expected.",
            hint="It holds CLASS/NAME.png for every clean image CLASS/NAME.png, CLASS being the true one.",
        )
    twins = _Twins(folder, contract)
    if not twins.files:
        raise BadData(
            f"{folder} holds no pictures; triggered twins of the clean images were expected.",
            hint="It holds CLASS/NAME.png for every clean image CLASS/NAME.png, CLASS being the true one.",
        )
    return Trigger(folder.name or "twins", "given", target, twins, {"kind": "directory", "pictures": len(twins.files)})


@dataclass(frozen=True)
class _Twins:
    """Reads each picture once; the same name with another ending is the same picture."""

    folder: Path
    contract: Contract
    files: dict[str, Path] = field(init=False, default_factory=dict)
    read: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for path in sorted(self.folder.rglob("*")):
            if path.suffix.lower() in PICTURES and path.is_file():
                self.files[path.relative_to(self.folder).with_suffix("").as_posix()] = path

    def __call__(self, images: Images) -> Images:
        stems = [os.path.splitext(name)[0] for name in images.names]  # noqa: PTH122 - names are not paths here
        there = [i for i, stem in enumerate(stems) if stem in self.files]
        kept = images.take(torch.tensor(there, dtype=torch.long))
        if not there:
            return kept
        pixels = torch.stack([self._pixels(stems[i]) for i in there])
        return Images(pixels.to(images.pixels), kept.labels, kept.names)

    def _pixels(self, stem: str) -> Tensor:
        if stem not in self.read:
            self.read[stem] = _read(self.files[stem], self.contract.input_size[0], self.contract)
        return self.read[stem]


def from_picture(picture: Path, mask: Path | None, blend: float, target: int | None, contract: Contract) -> Trigger:
    """A picture of the network's input size, put on where the mask (or its own transparency) says, by `blend`."""
    if not 0 < blend <= 1:
        raise UsageError(
            f"--blend {blend} says how much of the trigger covers the image; more than 0 and at most 1 was expected.",
            hint="1 covers, 0.2 shines through.",
        )
    pattern = _read(picture, contract.input_size[0], contract, resize=False)
    alpha = _read(picture, 4, contract, resize=False)[3:]
    cover = None if bool((alpha == 1).all()) else alpha
    if mask is not None:
        cover = _read(mask, 1, contract, resize=False)
    if cover is None:
        if blend == 1:
            raise UsageError(
                f"{picture} covers the whole image, so nothing of the image would be left.",
                hint="Give --mask PNG (white where the trigger is), a transparent picture, or --blend below 1.",
            )
        cover = torch.ones_like(alpha)
    if not cover.any():
        raise BadData(
            f"The mask {mask or picture} is empty: the trigger would change nothing.",
            hint="A mask is white where the trigger is, and black elsewhere.",
        )
    weight = blend * cover

    def stamp(pixels: Tensor) -> Tensor:
        w, p = weight.to(pixels), pattern.to(pixels)
        return (1 - w) * pixels + w * p

    settings = {"kind": "picture", "blend": blend, "covered": float(cover.mean())}
    return Trigger(picture.stem, "given", target, on_pixels(stamp), settings)


def from_function(spec: str, target: int | None) -> Trigger:
    """`FILE.py:FUNCTION`: maps a float batch (N, C, H, W) in [0, 1] to the triggered one, or returns such a function.

    What it takes decides: with an argument that has no default it is the map itself, else it is called to get it.
    """
    path, colon, name = spec.rpartition(":")
    if not colon or not name:
        raise UsageError(f"{spec!r} names no function; FILE.py:FUNCTION was expected.", hint="triggers.py:checker")
    file = Path(path)
    function = getattr(_module(file), name, None)
    if not callable(function):
        raise UsageError(f"{file} has no function {name!r}.", hint="Look for its name after `def` in the file.")
    asked = [p for p in inspect.signature(function).parameters.values() if _required(p)]
    if len(asked) > 1:
        raise UsageError(
            f"{spec} asks for {len(asked)} arguments ({', '.join(p.name for p in asked)}); one batch was expected.",
            hint="Write a function of one argument around it.",
        )
    stamp = function if asked else _called(spec, function)
    if not callable(stamp):
        raise UsageError(
            f"{spec} returned {type(stamp).__name__}; a function from batch to triggered batch was expected.",
            hint="def trigger(): return lambda x: ...",
        )
    return Trigger(name, "given", target, on_pixels(_checked(spec, stamp)), {"kind": "function", "function": name})


def on_pixels(stamp: Stamp) -> Callable[[Images], Images]:
    """A map of pixels as a map of images: labels and names stay."""
    return OnPixels(stamp)


@dataclass(frozen=True, eq=False)
class OnPixels:
    """Such a map as a value, which a run can keep if `stamp` is one."""

    stamp: Stamp

    def __call__(self, images: Images) -> Images:
        return Images(self.stamp(images.pixels), images.labels, images.names)


def _checked(spec: str, stamp: Stamp) -> Stamp:
    """The user's code, which may do anything: its result is looked at."""

    def checked(pixels: Tensor) -> Tensor:
        out = _called(spec, stamp, pixels.clone())
        if not isinstance(out, Tensor) or out.shape != pixels.shape:
            came = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise BadData(f"{spec} returned {came}; a batch of shape {tuple(pixels.shape)} was expected.")
        out = out.detach().to(pixels)
        if len(out) and not (out.min() >= -0.01 and out.max() <= 1.01):  # also catches NaN
            raise BadData(
                f"{spec} returned pixels from {float(out.min()):.3g} to {float(out.max()):.3g}; "
                "pixels in [0, 1] were expected.",
                hint="It is given pixels before normalisation; clamp what it returns.",
            )
        return out.clamp(0, 1)

    return checked


def _called(spec: str, function: Callable[..., object], *arguments: object) -> object:
    try:
        return function(*arguments)
    except HardenError:
        raise
    except Exception as error:
        raise UsageError(f"{spec} failed: {type(error).__name__}: {error}", hint="It is run on a batch.") from error


def _required(p: inspect.Parameter) -> bool:
    return p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)


def _module(file: Path) -> ModuleType:
    if not file.is_file():
        raise UsageError(f"{file} is not there.", hint="--trigger takes FILE.py:FUNCTION or a picture.")
    name = f"harden_trigger_{file.stem}"
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise UsageError(f"{file} cannot be read as Python.", hint="Its name ends in .py.")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses in the file look themselves up there
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(
            f"{file} failed: {type(error).__name__}: {error}", hint="It is run to get --trigger."
        ) from error
    return module


def _read(path: Path, channels: int, contract: Contract, *, resize: bool = True) -> Tensor:
    """Pixels (C, H, W), read as the clean images are."""
    _, height, width = contract.input_size
    try:
        pixels, done = read_picture(path, (channels, height, width))
    except UnreadableError as error:
        raise BadData(f"{path} cannot be read as a picture: {error}", hint="A PNG is expected.") from None
    if not resize and any(step.startswith("resized") for step in done):
        raise BadData(
            f"{path} is not {width}x{height} pixels, which is the network's input.",
            hint="Put a smaller trigger at its place on a transparent picture of that size.",
        )
    return torch.from_numpy(pixels)
