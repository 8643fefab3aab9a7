"""model.toml and everything else that says what goes into the network and what comes out.

For each entry the first that speaks wins: the caller's arguments, the contract file, what the model file itself
says, the published settings of a torchvision or timm architecture.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from harden.errors import BadData, BadModel, UnsafeFile, UsageError
from harden.loading.rules import finding
from harden.types import Contract, Finding

KEYS = ("architecture", "num_classes", "classes", "input_size", "mean", "std")
_FLAGS = {"mean": "--mean 0.485,0.456,0.406", "std": "--std 0.229,0.224,0.225", "input_size": "--input-size 3,32,32"}
_MEANING = {
    "mean": "the mean that is subtracted per channel from pixels in [0, 1]",
    "std": "the standard deviation that they are then divided by",
    "input_size": "channels, height and width of the images that go in",
}
PREPARATION = ("input_size", "mean", "std")
MAX_SIDE = 4096
ONE_LOGIT = (
    "it says yes or no by one number: give --arch FILE.py:FUNCTION for a network around it that returns two logits, "
    "torch.cat([-x, x], 1) / 2"
)


@dataclass(frozen=True)
class Found:
    """What one contract file says, checked entry by entry."""

    entries: Mapping[str, Any]
    path: Path | None = None


def contract_file(model: Path, named: Path | None) -> Path | None:
    """The contract that goes with a model: the one named, or model.toml beside it."""
    if named is not None:
        if not named.is_file():
            raise UsageError(f"the contract {named} is not there", hint="--contract takes a TOML file like model.toml")
        return named
    folder = model if model.is_dir() else model.parent
    beside = folder / "model.toml"
    return beside if beside.is_file() else None


def read_contract(path: Path) -> Found:
    """Reads model.toml; unknown keys are refused by name, and Python code is refused altogether."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadModel(f"{path} is no TOML: {error}", hint="docs/inputs.md shows a contract") from None
    _known(content, ("model",), path, "table")
    table = content.get("model")
    if not isinstance(table, dict):
        raise BadModel(f"{path} has no table [model]", hint="docs/inputs.md shows a contract")
    _known(table, KEYS, path, "key")
    name = table.get("architecture")
    if isinstance(name, str) and not name.startswith(("torchvision:", "timm:")):
        raise UnsafeFile(
            f"{path} names {name!r} as its architecture; a contract may name torchvision: or timm: ones only",
            findings=[finding("contract-code", f"architecture = {name!r}", str(path))],
            hint=f"if you trust that code, say so yourself: --arch {name}",
        )
    return Found(check_entries(table, str(path)), path)


def check_entries(entries: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The types and ranges of a contract's entries, as tuples."""
    checked: dict[str, Any] = {}
    for key, value in entries.items():
        if value is None:
            continue
        problem, clean = _entry(key, value)
        if problem:
            raise BadModel(f"{where}: {key} = {str(value)[:80]} {problem}")
        checked[key] = clean
    return checked


def _entry(key: str, value: Any) -> tuple[str, Any]:
    """What is wrong with an entry, and its clean form."""
    is_list = isinstance(value, list | tuple)
    if key == "architecture":
        return ("", value) if isinstance(value, str) else ("is no text", None)
    if key == "num_classes":
        return ("", value) if type(value) is int and 1 <= value <= 10**6 else ("is no count of classes", None)
    if key == "classes":
        if not is_list or not value or not all(isinstance(v, str) for v in value):
            return "is no list of names", None
        if len(set(value)) != len(value):
            return "names a class twice", None
        return "", tuple(value)
    if key == "input_size":
        if not is_list or len(value) != 3 or not all(type(v) is int and 1 <= v <= MAX_SIDE for v in value):
            return "is not [channels, height, width]", None
        return "", tuple(value)
    if not is_list or not value or not all(isinstance(v, int | float) and math.isfinite(v) for v in value):
        return "is no list of numbers", None
    if key == "std" and min(value) <= 0:
        return "is not positive", None
    if max(abs(v) for v in value) > 10:
        return "is meant for pixels in [0, 255]; divide it by 255, since pixels are in [0, 1] here", None
    return "", tuple(float(v) for v in value)


def _known(table: Mapping[str, Any], known: Sequence[str], path: Path, what: str) -> None:
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, 1)
            raise BadModel(
                f"{path}: unknown {what} {key!r}",
                hint=f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}",
            )


def published(spec: str | None) -> dict[str, Any]:
    """Input settings that torchvision and timm publish for an architecture's own weights."""
    kind, _, name = (spec or "").partition(":")
    if kind == "torchvision":
        from torchvision import models

        preset = models.get_model_weights(name).DEFAULT.transforms()  # type: ignore[attr-defined]
        side = preset.crop_size[0]
        return {"input_size": (3, side, side), "mean": tuple(preset.mean), "std": tuple(preset.std)}
    if kind == "timm":
        import timm

        settings = timm.get_pretrained_cfg(name, allow_unregistered=True)
        if settings is not None:
            size = tuple(settings.input_size)
            return {"input_size": size, "mean": tuple(settings.mean), "std": tuple(settings.std)}
    return {}


def unsaid(sources: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[str, ...]:
    """What no source says, of all that has to be known to prepare images."""
    return tuple(k for k in PREPARATION if all(entries.get(k) is None for _, entries in sources))


def settle(
    sources: Sequence[tuple[str, Mapping[str, Any]]], logits: int | None, folders: Sequence[str] | None
) -> tuple[Contract, tuple[Finding, ...]]:
    """One contract out of all sources, best first. `logits` is what the network really has, where that is known."""
    said: dict[str, tuple[Any, str]] = {}
    for source, entries in sources:
        for key, value in entries.items():
            if value is not None:
                said.setdefault(key, (value, source))
    absent = unsaid(sources)
    if absent:
        lines = "\n".join(f"  {key}: {_MEANING[key]}, e.g. {_FLAGS[key]}" for key in absent)
        raise UsageError(
            f"it is not known how images are prepared for this model. Missing:\n{lines}",
            hint="give these flags, or write them into a model.toml beside the model; a network that takes pixels in "
            "[0, 1] as they are has mean 0,0,0 and std 1,1,1",
        )
    size = said["input_size"][0]
    mean, std = (_per_channel(key, said[key][0], size[0]) for key in ("mean", "std"))
    classes, count = _classes(said, logits, folders)
    origin = {said[key][1] for key in ("input_size", "mean", "std")}
    findings = []
    if origin & {"torchvision", "timm"}:
        assumed = ", ".join(k for k in ("input_size", "mean", "std") if said[k][1] in ("torchvision", "timm"))
        findings.append(
            finding("contract-default", f"{assumed}: taken from the settings published for the architecture")
        )
    name = said.get("architecture", (None, ""))[0]
    return Contract(count, classes, size, mean, std, name), tuple(findings)


def _per_channel(key: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) == channels:
        return values
    if len(values) == 1:
        return values * channels
    raise UsageError(f"{key} has {len(values)} numbers, and input_size says {channels} channels", hint=f"fit --{key}")


def _classes(
    said: Mapping[str, tuple[Any, str]], logits: int | None, folders: Sequence[str] | None
) -> tuple[tuple[str, ...], int]:
    names = said["classes"][0] if "classes" in said else tuple(folders) if folders else None
    claimed = said["num_classes"][0] if "num_classes" in said else None
    count = logits if logits is not None else claimed if claimed is not None else len(names) if names else 0
    if claimed is not None and claimed != count:
        raise BadModel(
            f"the contract ({said['num_classes'][1]}) says {claimed} classes, and the network has {count} logits",
            hint="correct num_classes, or check that this is the contract of this model",
        )
    if names is None:
        names = tuple(str(label) for label in range(count))
    if len(names) != count:
        origin = f"the contract ({said['classes'][1]})" if "classes" in said else "the folder of images"
        raise BadData(
            f"the network has {count} logits, and {origin} names {len(names)} classes: {', '.join(names[:5])}, ...",
            hint=ONE_LOGIT
            if count == 1 and len(names) == 2
            else "name all classes in the order of the logits in model.toml: classes = [...]",
        )
    return names, count
