"""Finds the weights in a checkpoint: nested, prefixed, beside optimizers and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from harden.loading.contents import Contents
from harden.loading.opcodes import DamagedError, Record, StoredTensor
from harden.loading.rules import finding
from harden.types import Finding

_PREFERRED = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "weights", "params",
    "classifier", "backbone", "student", "model_ema", "state_dict_ema", "ema",
)  # fmt: skip
_PASSED_OVER = ("optim", "sched", "scaler", "discriminator", "teacher", "amp", "loss", "criterion")
_WRAPPERS = ("module.", "_orig_mod.", "_forward_module.")
_COUNTERS = ("n_averaged", "total_ops", "total_params")
"""Left behind by averaging and by FLOP counters."""
MAX_DEPTH = 5


@dataclass(frozen=True, eq=False)
class Weights:
    """A state dict as stored, before any tensor is made."""

    stored: Mapping[str, StoredTensor]
    path: str
    """Where it lies in the checkpoint; empty for the top."""
    findings: tuple[Finding, ...]


def find(contents: Contents) -> Weights | None:
    """The state dict in a checkpoint, or None where there is none. It is the one at the best-known key."""
    if isinstance(contents.tree, Record):
        stored = dict(of_module(contents.tree))
        return Weights(stored, "", ()) if stored else None
    candidates = list(_candidates(contents.tree, "", 0, set()))
    if not candidates:
        return None
    path, found = min(candidates, key=lambda c: (_rank(c[0]), -len(c[1])))
    findings = []
    if path:
        others = [p for p, _ in candidates if p != path]
        beside = f"; not used: {', '.join(repr(p[:60]) for p in others[:6])}" if others else ""
        findings.append(finding("weights-nested", f"the weights lie at {path!r}{beside}"))
    stored, stripped = strip(found)
    if stripped:
        findings.append(finding("weights-prefix", f"the prefix {stripped!r} was taken off every name"))
    counters = [name for name in stored if name.rpartition(".")[2] in _COUNTERS]
    if counters:
        findings.append(finding("weights-extra", f"left out: {', '.join(counters[:4])} ({len(counters)} counters)"))
    return Weights({n: t for n, t in stored.items() if n not in counters}, path, tuple(findings))


def make(weights: Weights, contents: Contents) -> dict[str, Tensor]:
    """The tensors themselves."""
    if contents.shelf is None:
        raise DamagedError("the file has names of tensors, but no numbers")
    return {name: contents.shelf.tensor(stored) for name, stored in weights.stored.items()}


def strip(stored: Mapping[str, StoredTensor]) -> tuple[dict[str, StoredTensor], str]:
    """Takes off what DataParallel, torch.compile and the like put before every name."""
    taken = ""
    names = dict(stored)
    while True:
        weights = [name for name in names if name.rpartition(".")[2] not in _COUNTERS]
        prefix = next((w for w in _WRAPPERS if weights and all(n.startswith(w) for n in weights)), None)
        if prefix is None:
            return names, taken
        taken += prefix
        names = {name.removeprefix(prefix): tensor for name, tensor in names.items()}


def _rank(path: str) -> tuple[int, int, int]:
    steps = path.split("/") if path else []
    last = steps[-1].lower() if steps else ""
    known = _PREFERRED.index(last) if last in _PREFERRED else len(_PREFERRED)
    return (any(bad in path.lower() for bad in _PASSED_OVER), known if steps else -1, len(steps))


def _candidates(node: Any, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, dict[str, StoredTensor]]]:
    """Every mapping from names to tensors, wherever it lies."""
    if depth > MAX_DEPTH or id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, Record):
        inside = dict(of_module(node))
        if inside:
            yield path, inside
            return
        node = {**node.items, **(node.state if isinstance(node.state, dict) else {})}
    if not isinstance(node, dict):
        return
    tensors = {k: v for k, v in node.items() if isinstance(k, str) and isinstance(v, StoredTensor)}
    named = sum("." in name for name in tensors)
    if tensors and 2 * len(tensors) >= len(node) and (named or len(tensors) > 1):
        yield path, tensors
        return
    for key, child in list(node.items())[:1000]:
        if isinstance(key, str) and isinstance(child, dict | Record):
            yield from _candidates(child, f"{path}/{key}" if path else key, depth + 1, seen)


def of_module(
    record: Record, prefix: str = "", seen: frozenset[int] = frozenset()
) -> Iterator[tuple[str, StoredTensor]]:
    """The weights of a whole pickled module, or of a TorchScript one, by the names that its state dict would have."""
    state = record.state
    if not isinstance(state, dict) or id(record) in seen or len(seen) > 40:
        return
    seen = seen | {id(record)}
    if isinstance(state.get("_modules"), dict):
        transient = state.get("_non_persistent_buffers_set") or set()
        for group in ("_parameters", "_buffers"):
            for name, value in (state.get(group) or {}).items():
                if isinstance(value, StoredTensor) and name not in transient:
                    yield f"{prefix}{name}", value
        children = state["_modules"].items()
    elif record.kind.startswith("__torch__."):
        for name, value in state.items():
            if isinstance(value, StoredTensor):
                yield f"{prefix}{name}", value
        children = state.items()
    else:
        return
    for name, child in children:
        if isinstance(child, Record):
            yield from of_module(child, f"{prefix}{name}.", seen)
