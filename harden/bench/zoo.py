"""A zoo: models to compare methods on, listed in one TOML file with their data and their true triggers.

    [data.NAME]    clean, test: folders with one folder per class
    [[model]]      name, weights, data: what, where, and which images belong to it
                   arch: "FILE.py:FUNCTION", torchvision:NAME or timm:NAME; num_classes (10)
                   input_size ([3, 32, 32]); mean, std (without them, pixels in [0, 1] as they are)
                   trigger: "FILE.py:FUNCTION", trigger_args, target; no trigger for a clean control
                   source: the one class whose images the trigger works on, if it is only one
                   acc, asr: as its maker measured them

Paths are relative to the file. The Python files that it names are run: a zoo is code that its user trusts.
Only the bench reads triggers and test images; methods are given what a defender has.
"""

from __future__ import annotations

import importlib.util
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harden.errors import UsageError
from harden.spelling import nearest, refuse_unknown

if TYPE_CHECKING:
    from harden.types import Trigger

KEYS = (
    "input_size",
    "name",
    "weights",
    "arch",
    "num_classes",
    "data",
    "mean",
    "std",
    "trigger",
    "trigger_args",
    "target",
    "source",
    "shift",
    "acc",
    "asr",
)


@dataclass(frozen=True)
class Data:
    """Where the images are."""

    name: str
    clean: Path
    """What a defender has."""
    test: Path
    """For measuring only."""


@dataclass(frozen=True)
class ZooModel:
    """One model, and what its maker knows of it."""

    name: str
    weights: Path
    arch: str
    data: Data
    num_classes: int = 10
    input_size: tuple[int, int, int] = (3, 32, 32)
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    trigger: str = ""
    """Empty: a clean control."""
    trigger_args: Mapping[str, Any] = field(default_factory=dict)
    target: int | None = None
    """None with a trigger: all-to-all."""
    shift: int = 0
    """All-to-all: how many classes further each is sent; 0 where nobody knows."""
    source: int | None = None
    """None: the trigger works on images of every class."""
    acc: float | None = None
    asr: float | None = None

    @property
    def backdoored(self) -> bool:
        return bool(self.trigger)


def read_zoo(path: Path) -> tuple[ZooModel, ...]:
    """Every model of a zoo; UsageError where the file does not say what it has to."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a zoo: {error}") from error
    refuse_unknown(content, ("data", "model"), str(path))
    here = path.resolve().parent
    data = {
        name: Data(name, here / _text(entry, "clean", f"[data.{name}]"), here / _text(entry, "test", f"[data.{name}]"))
        for name, entry in content.get("data", {}).items()
    }
    models = tuple(_model(entry, data, here) for entry in content.get("model", []))
    names = [model.name for model in models]
    if not models:
        raise UsageError(f"{path} lists no model", hint="Each one is a [[model]] table.")
    if len(set(names)) < len(names):
        raise UsageError(f"{path} lists {next(n for n in names if names.count(n) > 1)!r} twice")
    return models


def choose(models: Sequence[ZooModel], names: Sequence[str] | None) -> list[ZooModel]:
    """The models of these names, in the order of the zoo; all of them without names."""
    if names is None:
        return list(models)
    known = [model.name for model in models]
    for name in names:
        if name not in known:
            raise UsageError(f"the zoo has no model called {name!r}.{nearest(name, known)}", hint=", ".join(known))
    return [model for model in models if model.name in names]


def true_trigger(model: ZooModel) -> Trigger | None:
    """The attacker's trigger, for measuring."""
    from harden.bench import attacks
    from harden.triggers.inversion import ToNext

    if not model.backdoored:
        return None
    stamp = _function(model.trigger)(**model.trigger_args)
    moved = ToNext(model.num_classes, model.shift) if model.shift else None
    return attacks.given(model.trigger.rpartition(":")[2], stamp, model.target, model.source, moved)


def _model(entry: Mapping[str, Any], data: Mapping[str, Data], here: Path) -> ZooModel:
    where = f"the model {entry.get('name', '?')!r}"
    refuse_unknown(entry, KEYS, where)
    used = _text(entry, "data", where)
    if used not in data:
        raise UsageError(f"{where} names the data {used!r}, and there is no [data.{used}]")
    plain = ("num_classes", "trigger_args", "target", "source", "shift", "acc", "asr")
    rest = {key: entry[key] for key in plain if key in entry}
    rest |= {key: tuple(entry[key]) for key in ("mean", "std", "input_size") if key in entry}
    arch, trigger = _text(entry, "arch", where), str(entry.get("trigger", ""))
    return ZooModel(
        name=_text(entry, "name", where),
        weights=here / _text(entry, "weights", where),
        arch=_at(here, arch),
        data=data[used],
        trigger=_at(here, trigger),
        **rest,
    )


def _function(spec: str) -> Callable[..., Any]:
    """FILE.py:FUNCTION, by running the file."""
    file, _, name = spec.rpartition(":")
    found = importlib.util.spec_from_file_location("harden_zoo_triggers", file)
    if found is None or found.loader is None or not Path(file).is_file():
        raise UsageError(f"{spec!r} names no Python file and function")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{file} has no function {name!r}")
    made: Callable[..., Any] = function
    return made


def _at(here: Path, spec: str) -> str:
    """FILE.py:FUNCTION with its path made whole."""
    file, colon, function = spec.rpartition(":")
    return f"{here / file}:{function}" if colon and file.endswith(".py") else spec


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where} needs {key!r}, a text, and {value!r} came")
    return value
