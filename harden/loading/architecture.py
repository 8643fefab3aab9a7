"""Makes the network that the weights belong to, and fits them into it without letting anything slip.

`torchvision:NAME`, `timm:NAME`, or `FILE.py:FUNCTION`, which is code that the user trusts.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harden.errors import BadModel, UsageError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Architecture:
    """Something that makes a network."""

    spec: str
    make: Callable[..., nn.Module]
    """Takes num_classes and in_channels by name, each of which may be None."""
    is_code: bool = False


def architecture(spec: str) -> Architecture:
    """What a specification names; UsageError where it names nothing."""
    kind, _, name = spec.partition(":")
    if kind == "torchvision" and name:
        return Architecture(spec, _torchvision(name))
    if kind == "timm" and name:
        return Architecture(spec, _timm(name))
    file, colon, function = spec.rpartition(":")
    if colon and file.endswith(".py"):
        return Architecture(spec, _from_file(Path(file), function), is_code=True)
    raise UsageError(
        f"{spec!r} names no architecture: torchvision:NAME, timm:NAME or FILE.py:FUNCTION is expected",
        hint=f"did you mean torchvision:{spec}?" if ":" not in spec else "write for example torchvision:resnet18",
    )


def torchvision_names() -> list[str]:
    """Every classifier of torchvision."""
    from torchvision import models

    return list(models.list_models(module=models))


def _torchvision(name: str) -> Callable[..., nn.Module]:
    from torchvision import models

    names = torchvision_names()
    if name not in names:
        near = get_close_matches(name, names, 3)
        raise UsageError(
            f"torchvision has no classifier named {name!r}",
            hint=f"did you mean {', '.join(near)}?" if near else "torchvision.models.list_models() has all names",
        )

    def make(num_classes: int | None, _in_channels: int | None = None, **options: Any) -> nn.Module:
        if num_classes is not None:
            options["num_classes"] = num_classes
        if name in ("googlenet", "inception_v3"):
            options.setdefault("init_weights", False)
        model: nn.Module = models.get_model(name, weights=None, **options)
        return model

    return make


def _timm(name: str) -> Callable[..., nn.Module]:
    try:
        import timm
    except ImportError:
        raise UsageError(f"timm:{name} needs timm, which is not installed", hint="pip install 'harden[timm]'") from None
    plain = name.partition(".")[0]
    if not timm.is_model(plain):  # also keeps out names that make timm fetch something (hf-hub:...)
        near = get_close_matches(plain, timm.list_models(), 3)
        raise UsageError(
            f"timm has no architecture named {name!r}", hint=f"did you mean {', '.join(near)}?" if near else ""
        )

    def make(num_classes: int | None, in_channels: int | None = None, **options: Any) -> nn.Module:
        if num_classes is not None:
            options["num_classes"] = num_classes
        if in_channels not in (None, 3):
            options["in_chans"] = in_channels
        model: nn.Module = timm.create_model(name, pretrained=False, **options)
        return model

    return make


def _from_file(file: Path, function: str) -> Callable[..., nn.Module]:
    if not file.is_file():
        raise UsageError(f"{file} is not there", hint="the part of --arch before the colon is a path to a Python file")
    name = f"harden_architecture_{abs(hash(file.resolve()))}"
    found = importlib.util.spec_from_file_location(name, file)
    if found is None or found.loader is None:
        raise UsageError(f"{file} cannot be read as Python")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickles in the file look themselves up there
    sys.path.insert(0, str(file.resolve().parent))  # such files import their neighbours
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"{file} failed: {type(error).__name__}: {error}", hint="it is run to get --arch") from error
    finally:
        sys.path.remove(str(file.resolve().parent))
    build = getattr(module, function, None)
    if not callable(build):
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        near = get_close_matches(function, public, 3) or public[:5]
        raise UsageError(f"{file} has no function {function!r}", hint=f"it has {', '.join(near)}" if near else "")
    takes = _parameters(build)

    def make(num_classes: int | None, in_channels: int | None = None, **options: Any) -> nn.Module:
        for key, value in (("num_classes", num_classes), ("in_channels", in_channels)):
            if value is not None and key in takes:
                options[key] = value
        try:
            model = build(**options)
        except Exception as error:
            raise UsageError(f"{file}:{function} failed: {type(error).__name__}: {error}") from error
        if not isinstance(model, nn.Module):
            raise UsageError(f"{file}:{function} returned a {type(model).__name__}, and a torch.nn.Module is expected")
        return model

    return make


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return set()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        named.add("num_classes")
    return named


def blueprint(arch: Architecture, num_classes: int | None, in_channels: int | None = None, **options: Any) -> nn.Module:
    """The network without memory for its weights, where the architecture allows it."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                return arch.make(num_classes, in_channels, **options)
        except (NotImplementedError, RuntimeError, AttributeError, TypeError, UsageError):
            return arch.make(num_classes, in_channels, **options)  # some constructors need real numbers


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shapes that a strict load expects."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def build(arch: Architecture, num_classes: int | None, in_channels: int | None = None, **options: Any) -> nn.Module:
    """The network itself, on the CPU and with whatever weights it is born with."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return arch.make(num_classes, in_channels, **options)


def fill(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Puts the weights in, all of them and nothing else; their shapes were compared before."""
    complete = dict(weights)
    for name, tensor in module.state_dict().items():
        if name not in complete and name.endswith("num_batches_tracked"):  # unknown before torch 0.4.1
            complete[name] = tensor
        elif name in complete and tensor.is_floating_point() and not complete[name].is_floating_point():
            found = str(complete[name].dtype).removeprefix("torch.")
            raise BadModel(
                f"{name} holds {found} numbers, where floating-point ones are expected",
                hint="a quantised model keeps its scales elsewhere: ask for the weights as they were before that",
            )
    try:
        module.load_state_dict(with_versions(complete, module), strict=True)
    except RuntimeError as error:
        raise BadModel(f"the weights do not go into the network: {str(error)[:500]}") from None
    return module.float().eval()


def with_versions(state: Mapping[str, Tensor], module: nn.Module) -> OrderedDict[str, Tensor]:
    """The state with the versions of the module's own layers, whose shapes it has: torchvision's MNASNet refuses one
    without.
    """
    ordered = OrderedDict(state)
    vars(ordered)["_metadata"] = getattr(module.state_dict(), "_metadata", {})
    return ordered
