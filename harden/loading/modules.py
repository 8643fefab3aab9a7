"""Whole pickled modules, put together again from what the scan read: known layers only, no constructor called.

A layer is made empty and given its attributes, as unpickling would do, but by this file's hands: classes are looked
up only below the allow-listed packages and only if they really are layers. Hooks and replaced methods are refused.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from harden.errors import BadModel, UnsafeFile, UsageError
from harden.loading import allowed, limits
from harden.loading.contents import Contents
from harden.loading.opcodes import DamagedError, Global, Record, StoredTensor
from harden.loading.rules import finding
from harden.loading.tensors import Shelf

MAX_DEPTH = 300
_HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")
_BUILTINS = {"int": int, "float": float, "str": str, "bool": bool, "bytes": bytes, "object": object}
_NUMPY = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"}


def find_module(contents: Contents) -> Record | None:
    """The network in a file that holds a whole one, at the top or one step below."""
    if contents.format not in ("torch-zip", "torch-legacy") or contents.shelf is None:
        return None
    tree = contents.tree
    below = [
        tree[key] for key in ("model", "net", "network", "ema", "module") if isinstance(tree, dict) and key in tree
    ]
    for node in [tree, *below]:
        while isinstance(node, Record) and node.kind in allowed.WRAPPERS and isinstance(node.state, dict):
            node = (node.state.get("_modules") or {}).get("module")
        if isinstance(node, Record) and isinstance(node.state, dict) and "_modules" in node.state:
            return node
    return None


def rebuild(record: Record, contents: Contents) -> nn.Module:
    """The network itself; UnsafeFile where it is made of anything but known layers and values."""
    if contents.shelf is None:
        raise DamagedError("the module has no numbers")
    try:
        module = _Builder(contents.shelf).value(record, 0)
        if not isinstance(module, nn.Module):
            raise DamagedError("the file's top is no module")
        for name, part in module.named_modules():
            _untouched(name, part)
        return module.float().eval()
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BadModel(
            f"the pickled module cannot be put together: {type(error).__name__}: {str(error)[:200]}",
            hint="it was saved by another version, perhaps; give --arch, and only its weights are taken",
        ) from None
    except DamagedError as error:
        raise BadModel(f"the file is truncated or damaged: {error}", hint="ask for the file again") from None


class _Builder:
    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.made: dict[int, Any] = {}

    def value(self, node: Any, depth: int) -> Any:
        """What a node of the tree stands for."""
        if depth > MAX_DEPTH:
            raise DamagedError("the module is nested too deeply")
        if node is None or isinstance(node, bool | int | float | str | bytes | complex):
            return node
        if isinstance(node, Global):
            return named(node.name)
        if isinstance(node, tuple):
            return tuple(self.value(part, depth + 1) for part in node)
        if id(node) not in self.made:
            make: Callable[[Any, int], Any] | None = next(
                (make for kind, make in self.makers() if isinstance(node, kind)), None
            )
            if make is None:
                raise _refused(f"a {type(node).__name__}")
            self.made[id(node)] = None
            self.made[id(node)] = make(node, depth + 1)
        return self.made[id(node)]

    def makers(self) -> list[tuple[type, Callable[[Any, int], Any]]]:
        return [
            (StoredTensor, lambda node, _: self.tensor(node)),
            (Record, self.record),
            (dict, lambda node, depth: {self.value(k, depth): self.value(v, depth) for k, v in node.items()}),
            (list, lambda node, depth: [self.value(part, depth) for part in node]),
            (set, lambda node, depth: {self.value(part, depth) for part in node}),
            (frozenset, lambda node, depth: frozenset(self.value(part, depth) for part in node)),
        ]

    def tensor(self, stored: StoredTensor) -> Any:
        tensor = self.shelf.tensor(stored)
        if not stored.parameter:
            return tensor
        return nn.Parameter(tensor, requires_grad=tensor.is_floating_point() or tensor.is_complex())

    def record(self, record: Record, depth: int) -> Any:
        kind = record.kind
        if kind == "timm.layers.format.Format":  # an enumeration, so its text is checked by looking it up
            return named(kind)(*self.value(record.arguments, depth))
        if allowed.is_layer(kind):
            cls = layer_class(kind)
            module = cls.__new__(cls)
            self.made[id(record)] = module
            state = self.value(record.state, depth)
            if not isinstance(state, dict):
                raise DamagedError(f"a {kind} without a state")
            module.__setstate__(state)
            return module
        arguments = self.value(record.arguments, depth)
        if kind == "functools.partial":
            function, given, keywords, _ = self.value(record.state, depth)
            return partial(function, *given, **(keywords or {}))
        if kind == "builtins.slice":
            return slice(*arguments)
        if kind == "torch.device":
            return torch.device("cpu")
        if kind == "_codecs.encode" and isinstance(arguments[0], str):
            return arguments[0].encode("latin-1")
        if kind == "numpy.dtype" and arguments[0] in _NUMPY:
            return np.dtype(arguments[0])
        if kind.endswith("multiarray.scalar") and isinstance(arguments[0], np.dtype):
            return np.frombuffer(arguments[1], dtype=arguments[0])[0].item()
        if kind in ("argparse.Namespace", "types.SimpleNamespace"):
            return SimpleNamespace(**self.value(record.state or {}, depth))
        raise _refused(kind)


def layer_class(name: str) -> type[nn.Module]:
    """The class of a layer, if that is what the name really is."""
    home, _, last = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(home), last, None)
    except ImportError:
        if home.startswith("timm.") and importlib.util.find_spec("timm") is None:
            raise UsageError(
                "the file holds a model of timm, which is not installed", hint="pip install 'harden[timm]'"
            ) from None
        found = None
    if found is None:
        raise BadModel(
            f"{name} does not exist in the versions installed here",
            hint="give --arch, and only the weights are taken; or ask for the weights alone",
        )
    if (
        not isinstance(found, type)
        or not issubclass(found, nn.Module)
        or not f"{found.__module__}.".startswith(allowed.MODULES)
    ):
        raise _refused(name)
    return found


def named(name: str) -> Any:
    """What a name stands for when a module holds it as a value."""
    if name in allowed.DTYPE_GLOBALS:
        return getattr(torch, allowed.DTYPE_GLOBALS[name])
    home, _, last = name.rpartition(".")
    if home in ("builtins", "__builtin__") and last in _BUILTINS:
        return _BUILTINS[last]
    if name in allowed.PARTS_OF_MODULES:
        return getattr(importlib.import_module(home), last)
    if allowed.is_layer(name):
        return layer_class(name)
    raise _refused(name)


def _untouched(name: str, module: nn.Module) -> None:
    """A layer must do what its class does."""
    for attribute, value in vars(module).items():
        hooked = attribute.endswith(_HOOKS) and bool(value)
        replaced = attribute in ("forward", "__call__", "_call_impl", "_compiled_call_impl") and value is not None
        if hooked or replaced:
            raise _refused(f"{attribute} of {name or 'the module'}", "carries hooks or replaced methods")
    for tensor in [*module._parameters.values(), *module._buffers.values()]:
        if tensor is not None and not isinstance(tensor, torch.Tensor):
            raise _refused(f"a {type(tensor).__name__} in place of a tensor in {name}")
    for child, part in module._modules.items():
        if part is not None and not isinstance(part, nn.Module):
            raise _refused(f"a {type(part).__name__} in place of the layer {child}")


def _refused(what: str, why: str = "is made of things that are no known layers") -> UnsafeFile:
    return UnsafeFile(
        f"the pickled module {why}: {what}",
        findings=[finding("pickle-global", f"the module holds {what}")],
        hint="give --arch, and only its weights are taken",
    )


def same_function(one: nn.Module, other: nn.Module, size: tuple[int, int, int]) -> bool:
    """Whether two networks answer alike on a few inputs, which a guess has to prove."""
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(2, *size, generator=generator)
    try:
        with torch.no_grad(), limits.bounded():
            a, b = one(probe), other(probe)
        return bool(
            torch.allclose(a, b, rtol=1e-4, atol=1e-5 * max(1.0, math.fsum(a.abs().flatten().tolist()) / a.numel()))
        )
    except Exception:  # whatever a foreign network does here, it is no proof
        return False
