"""pruning.json: what was cut out of which layer, so that the smaller network can be built again.

Positions are those of the original architecture. `kept` lists, for every layer that was narrowed, the original
positions that are left, of what it sends out and of what it takes in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harden.counting import count_macs, count_parameters

if TYPE_CHECKING:
    from harden.pruning.operation import Operation

SCHEMA = 1


def describe(operation: Operation) -> dict[str, Any]:
    """The record of a finished operation; only the hash of the weights is still to come, when they are saved."""
    contract = operation.masked.contract
    before, after = operation.masked.network, operation.result
    kept: dict[str, dict[str, list[int]]] = {}
    for (name, end), row in sorted(operation.ledger.kept.items()):
        kept.setdefault(name, {})[end] = row
    return {
        "schema": SCHEMA,
        "architecture": contract.architecture,
        "num_classes": contract.num_classes,
        "input_size": list(contract.input_size),
        "source_sha256": None,
        "weights_sha256": None,
        "versions": {name: _version(name) for name in ("harden", "torch", "torch-pruning")},
        "seed": operation.run.seed,
        "align": operation.align,
        "max_accuracy_drop": operation.guard.max_accuracy_drop,
        "remove_coupled": operation.remove_coupled,
        "batch_norm_reestimated": operation.reestimated,
        "removed": [list(filter) for filter in operation.removed()],
        "masked": [list(filter) for filter in operation.masked_filters()],
        "refusals": [[*refusal.filter, refusal.reason] for refusal in operation.refusals],
        "kept": kept,
        "parameters": [count_parameters(before), count_parameters(after)],
        "macs": [count_macs(before, contract.input_size), count_macs(after, contract.input_size)],
    }


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """One hash over the names, types, shapes and bytes of all tensors."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
