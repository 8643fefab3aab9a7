"""pruning.json: what was cut out of which layer, so that the smaller network can be built again.

Positions are those of the original architecture. `kept` lists, for every layer that was narrowed, the original
positions that are left, of what it sends out and of what it takes in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harden.counting import count_macs, count_parameters
from harden.types import Filter, LayerWidth, Pruned

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


def joined(first: Pruned, second: Pruned) -> Pruned:
    """Two operations as one: the second one's positions are those that the first one left."""
    kept, again = first.record["kept"], second.record["kept"]

    def original(filter: Filter) -> Filter:
        row = kept.get(filter.layer, {}).get("out")
        return filter if row is None else Filter(filter.layer, row[filter.index])

    removed = (*first.removed, *map(original, second.removed))
    order = [Filter(layer.name, i) for layer in first.layers for i in range(layer.before)]
    masked = {f for f in (*first.masked, *map(original, second.masked)) if f not in removed}
    told = {r.filter: r for r in first.refusals if r.filter not in removed}
    told |= {original(r.filter): replace(r, filter=original(r.filter)) for r in second.refusals}
    whole = replace(
        first,
        module=second.module,
        removed=tuple(f for f in order if f in set(removed)),
        masked=tuple(f for f in order if f in masked),
        refusals=tuple(told.values()),
        layers=tuple(LayerWidth(a.name, a.before, b.after) for a, b in zip(first.layers, second.layers, strict=True)),
        stopped_because="; ".join(filter(None, (first.stopped_because, second.stopped_because))),
    )
    return replace(
        whole,
        record={
            **second.record,
            "batch_norm_reestimated": first.record["batch_norm_reestimated"] or second.record["batch_norm_reestimated"],
            "removed": [list(f) for f in whole.removed],
            "masked": [list(f) for f in whole.masked],
            "refusals": [[*r.filter, r.reason] for r in whole.refusals],
            "kept": {name: _chosen(kept.get(name, {}), again.get(name, {})) for name in sorted({*kept, *again})},
            **{count: [first.record[count][0], second.record[count][1]] for count in ("parameters", "macs")},
        },
    )


def _chosen(first: Mapping[str, list[int]], second: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Of the positions that the first operation kept, those that the second one did."""
    rows = {end: [first[end][i] for i in row] if end in first else row for end, row in second.items()}
    return {**first, **rows}


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
