"""Values of the pipeline as JSON and tensors, and back: what a run keeps of a finished stage.

    None, bool, int, float, str     themselves
    tuple, list, dict               {"tuple": [...]}, [...], {"dict": [[key, value], ...]}
    tensor                          {"tensor": its name among the tensors}
    a dataclass of harden, a Filter {"harden.types:Rate": {field: value}}
    one of the known objects        {"known": its position}: triggers that were given are made anew, not read

Nothing is run on reading but the constructors of harden's own dataclasses, on plain values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any

from torch import Tensor

from harden.types import Filter


class CannotKeepError(Exception):
    """A value that has no such form, a closure for example."""


def encode(value: Any, tensors: dict[str, Tensor], known: Sequence[Any] = ()) -> Any:
    """What json can write; tensors are put into `tensors`."""

    def plain(value: Any) -> Any:
        place = next((i for i, thing in enumerate(known) if thing is value), None)
        if place is not None:
            return {"known": place}
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, Tensor):
            name = str(len(tensors))
            tensors[name] = value.detach().cpu().clone().contiguous()
            return {"tensor": name}
        if isinstance(value, Filter):
            return {_name(Filter): {"layer": value.layer, "index": value.index}}
        if type(value) is tuple:
            return {"tuple": [plain(part) for part in value]}
        if isinstance(value, list):
            return [plain(part) for part in value]
        if isinstance(value, Mapping):
            return {"dict": [[plain(key), plain(part)] for key, part in value.items()]}
        if is_dataclass(value) and not isinstance(value, type) and type(value).__module__.startswith("harden."):
            return {_name(type(value)): {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.init}}
        raise CannotKeepError(f"a {type(value).__name__}")

    return plain(value)


def decode(node: Any, tensors: Mapping[str, Tensor], known: Sequence[Any] = ()) -> Any:
    """The value again; ValueError, KeyError or TypeError where the form is not one of these."""

    def value(node: Any) -> Any:
        if isinstance(node, list):
            return [value(part) for part in node]
        if not isinstance(node, dict):
            return node
        if len(node) != 1:
            raise ValueError("a value has one form")
        ((form, content),) = node.items()
        if form == "known":
            return known[content]
        if form == "tensor":
            return tensors[content]
        if form == "tuple":
            return tuple(value(part) for part in content)
        if form == "dict":
            return {value(key): value(part) for key, part in content}
        return _class(form)(**{key: value(part) for key, part in content.items()})

    return value(node)


def _name(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _class(name: str) -> type:
    home, _, last = name.partition(":")
    if not home.startswith("harden."):
        raise ValueError(f"{name} is not one of harden's own")
    found = getattr(import_module(home), last, None)
    if not isinstance(found, type) or not (is_dataclass(found) or found is Filter) or found.__module__ != home:
        raise ValueError(f"{name} is no dataclass")
    return found
