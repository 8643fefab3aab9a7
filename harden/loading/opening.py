"""From a path to a suspect: scanned, built, filled, tried once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harden.errors import BadModel, HardenError, UsageError
from harden.loading import architecture, limits, onnx_network, statedict, trusted
from harden.loading import contract as contracts
from harden.loading.contents import Contents
from harden.loading.fit import fit
from harden.loading.folder import scan_folder
from harden.loading.guess import candidates, guess
from harden.loading.modules import find_module, rebuild, same_function
from harden.loading.opcodes import DamagedError
from harden.loading.rules import MAX_SIZE, finding
from harden.loading.scan import Scanned, scan
from harden.types import Contract, Finding, Source, Suspect

_RUNNABLE = ("torch-zip", "torch-legacy", "pickle", "torchscript", "torch-export")
"""Formats whose own loaders run code, which --trust-code allows."""


@dataclass(frozen=True)
class Layer:
    """One tensor of a state dict."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a file is, told without running it."""

    source: Source
    format: str
    """In words."""
    findings: tuple[Finding, ...]
    layers: tuple[Layer, ...]
    """The weights, in the file's order; empty where there are none."""
    architecture: str | None
    """Named by the caller, the contract or the file, or guessed."""
    architecture_is_guess: bool
    contract: Contract | None
    uses: Mapping[str, str]
    """What inspect, scan, verify and clean can do with it, or what they lack."""
    remarks: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    """What the other verbs would still have to be told: arch, input_size, mean, std."""


def load(
    path: Path,
    *,
    arch: str | None = None,
    contract_file: Path | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: Sequence[int] | None = None,
    max_size: int | None = None,
    trust_code: bool = False,
) -> Suspect:
    """Opens a model that nobody has vouched for.

    The file is read once and scanned; tensors are made from those very bytes, and nothing in them is run.
    `classes` are the folder names of the images, which name the logits in sorted order unless a contract does.
    """
    said = _said(path, contract_file, {"mean": mean, "std": std, "input_size": input_size})
    scanned = _scanned(path, max_size or MAX_SIZE, trust_code=trust_code)
    said.append(("the model file", scanned.contents.contract))
    spec = arch or _first(said, "architecture") or scanned.contents.architecture
    if trust_code and arch is None and scanned.contents.format in _RUNNABLE:
        module = trusted.run(scanned)
        findings: tuple[Finding, ...] = (finding("code-trusted", "opened by its own loader"),)
    else:
        module, spec, findings = _module(scanned, spec, _first(said, "num_classes"))
    _check_weights(module, path)
    if spec is None and scanned.contents.format != "onnx":
        spec = _twin(scanned, module, _first(said, "input_size"))
    said.append(((spec or "").partition(":")[0], contracts.published(spec)))
    size = _first(said, "input_size")
    if size:
        onnx_network.one_by_one(module, size)
    logits, probabilities = _try(module, size, path) if size else (None, False)
    if scanned.contents.format == "onnx" and size:
        onnx_network.check(module, scanned.data, size)
    contract, more = contracts.settle(said, logits, classes)
    if probabilities:
        more += (finding("output-probabilities", "the outputs of a first try add up to one"),)
    source = replace(scanned.source, findings=scanned.source.findings + findings + more)
    return Suspect(module, replace(contract, architecture=spec), source)


def inspect(
    path: Path,
    *,
    arch: str | None = None,
    contract_file: Path | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: Sequence[int] | None = None,
    max_size: int | None = None,
) -> Inspection:
    """Says what a file is without running it; what is unknown about it is said and not refused."""
    said = _said(path, contract_file, {"mean": mean, "std": std, "input_size": input_size})
    scanned = _scanned(path, max_size or MAX_SIZE, ask_others=True)
    contents = scanned.contents
    said.append(("the model file", contents.contract))
    found = statedict.find(contents)
    layers = [Layer(n, t.size, t.dtype) for n, t in found.stored.items()] if found else []
    findings = scanned.source.findings + (found.findings if found else ())
    spec = arch or _first(said, "architecture") or contents.architecture
    guessed = None
    if spec is None and found is not None:
        guessed = guess({n: t.size for n, t in found.stored.items()})
    known = spec or guessed
    weights = _weights(contents, known)
    contract, remarks = None, list(contents.remarks)
    able = uses(contents, known)
    missing: tuple[str, ...] = () if able["clean"] == "yes" else ("arch",)
    try:
        said.append(((known or "").partition(":")[0], contracts.published(known)))
        logits = None
        if known is not None and weights is not None:
            shapes = {n: t.size for n, t in weights.stored.items()}
            logits = fit(architecture.architecture(known), shapes, None).num_classes
        contract, more = contracts.settle(said, logits, classes)
        findings += more
    except HardenError as error:
        remarks.append(str(error))
    return Inspection(
        scanned.source, contents.about, findings, tuple(layers), known, spec is None and guessed is not None,
        contract, able, tuple(remarks), (*missing, *contracts.unsaid(said)),
    )  # fmt: skip


def uses(contents: Contents, spec: str | None) -> Mapping[str, str]:
    """What each verb can do with a file of this format."""
    if find_module(contents) is not None or spec is not None or contents.format == "onnx":
        return dict.fromkeys(("inspect", "scan", "verify", "clean"), "yes")
    need = "needs --arch (torchvision:NAME, timm:NAME or FILE.py:FUNCTION)"
    return {"inspect": "yes", "scan": need, "verify": need, "clean": need}


def _scanned(path: Path, max_size: int, **how: bool) -> Scanned:
    return scan_folder(path, max_size, **how) if path.is_dir() else scan(path, max_size, **how)


def _said(path: Path, named: Path | None, overrides: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """What the caller and the contract file say, best first."""
    said: list[tuple[str, Mapping[str, Any]]] = [
        ("the command line", contracts.check_entries(overrides, "the command line"))
    ]
    found = contracts.contract_file(path, named)
    if found is not None:
        said.append((found.name, contracts.read_contract(found).entries))
    return said


def _first(said: Sequence[tuple[str, Mapping[str, Any]]], key: str) -> Any:
    return next((entries[key] for _, entries in said if entries.get(key) is not None), None)


def _module(
    scanned: Scanned, spec: str | None, num_classes: int | None
) -> tuple[nn.Module, str | None, tuple[Finding, ...]]:
    """The network with the file's weights in it."""
    contents, path = scanned.contents, scanned.source.path
    if contents.format == "onnx":
        return onnx_network.build(scanned.data), None, ()
    weights = _weights(contents, spec)
    if weights is None:
        raise BadModel(
            f"{path} is {contents.about} without any weights",
            hint="expected is a state dict: names with tensors, at the top or under a key like state_dict",
        )
    findings = weights.findings
    shapes = {name: stored.size for name, stored in weights.stored.items()}
    whole = find_module(contents)
    if spec is None and whole is not None:
        return rebuild(whole, contents), None, findings
    if spec is None:
        spec = guess(shapes)
        if spec is None:
            raise UsageError(
                f"{path} is {contents.about} and holds weights only ({len(shapes)} tensors); "
                "its architecture cannot be guessed from their names",
                hint=contents.advice or "give --arch torchvision:NAME, --arch timm:NAME or --arch FILE.py:FUNCTION",
            )
        findings += (finding("architecture-guessed", f"{spec} fits every name and shape, and is only a guess"),)
    arch = architecture.architecture(spec)
    fitting = fit(arch, shapes, num_classes)
    if fitting.prefix:
        findings += (finding("weights-prefix", f"the prefix {fitting.prefix!r} was taken off every name"),)
    try:
        tensors = {fitting.rename(n): t for n, t in statedict.make(weights, contents).items()}
    except DamagedError as error:
        raise BadModel(f"{path} is truncated or damaged: {error}", hint="ask for the file again") from None
    odd = {str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()} - {"float32"}
    if odd:
        findings += (finding("weights-precision", f"{', '.join(sorted(odd))}: computed in float32 from here on"),)
    module = architecture.build(arch, fitting.num_classes, fitting.in_channels, **fitting.options)
    return architecture.fill(module, tensors), spec, findings


def _weights(contents: Contents, spec: str | None) -> statedict.Weights | None:
    """The state dict, by the names that this architecture has for it."""
    found = statedict.find(contents)
    if found is None or contents.rename is None or spec != contents.architecture:
        return found
    return replace(found, stored={contents.rename(name): tensor for name, tensor in found.stored.items()})


def _twin(scanned: Scanned, module: nn.Module, size: tuple[int, int, int] | None) -> str | None:
    """The architecture of a whole module, if one that is known by name does exactly the same with its weights."""
    for spec in candidates(module.state_dict()):
        probe = size or contracts.published(spec).get("input_size")
        try:
            twin, _, _ = _module(scanned, spec, None)
        except HardenError:
            continue
        if probe and same_function(module, twin, probe):
            return spec
    return None


def _check_weights(module: nn.Module, path: Path) -> None:
    """Numbers that no network can compute with."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            raise BadModel(
                f"{path}: {count} of the {tensor.numel()} numbers of {name} are NaN or infinite",
                hint="the training that made it has diverged, or the file is damaged; ask for another",
            )
    if not any(True for _ in module.parameters()):
        raise BadModel(f"{path} has no parameters at all")


@torch.no_grad()
def _try(module: nn.Module, size: tuple[int, int, int], path: Path) -> tuple[int, bool]:
    """One forward pass: the number of logits, and whether they look like probabilities."""
    try:
        with torch.random.fork_rng(devices=[]), limits.bounded():
            output: Tensor = module(torch.linspace(-1, 1, 2 * size[0] * size[1] * size[2]).view(2, *size))
    except HardenError:
        raise
    except Exception as error:  # a foreign network may fail in any way
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise BadModel(
                f"{path}: the network takes more than {limits.ROOM >> 30} GiB of memory for two images of {list(size)}",
                hint="no classifier needs as much: check input_size, or ask what the network is",
            ) from None
        raise BadModel(
            f"{path}: the network does not take images of {list(size)}: {type(error).__name__}: {str(error)[:300]}",
            hint="check input_size (channels, height, width) in the contract or --input-size",
        ) from None
    if isinstance(output, Tensor) and output.dim() == 2 and output.shape[0] == 1:
        raise BadModel(f"{path}: the network was exported for one image at a time", hint=onnx_network.FREE_BATCH)
    if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[0] != 2:
        came = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise BadModel(
            f"{path}: the network is no image classifier: two images give {came}, and [2, classes] is expected",
            hint="detectors and segmenters cannot be hardened; a wrapper FILE.py:FUNCTION may pick the logits",
        )
    if not output.shape[1]:
        raise BadModel(f"{path}: the network has no logits: it was made for no class at all")
    if not bool(torch.isfinite(output).all()):
        raise BadModel(
            f"{path}: the network answers an ordinary image with NaN or infinity",
            hint="its weights are out of range (a negative variance, say) or the file is damaged; ask for another",
        )
    sums = output.double().sum(1)
    probabilities = output.shape[1] > 1 and bool((output >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all())
    return int(output.shape[1]), probabilities
