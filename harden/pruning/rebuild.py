"""The pruned network on disk, and back: weights in safetensors, the record in JSON; neither can run anything.

To build it again, the layers of the original architecture are given the shapes that the weights have. Only numbers
change, so torch-pruning is not needed, and nothing is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from safetensors.torch import save as serialised
from torch import Tensor, nn

from harden.errors import BadModel, Mismatch
from harden.loading.architecture import with_versions
from harden.pruning.record import SCHEMA, weights_sha256
from harden.types import Pruned, Source

WEIGHTS, RECORD = "model.safetensors", "pruning.json"


def save(pruned: Pruned, folder: Path, source: Source | None = None) -> Pruned:
    """Writes both files (each beside its place, then renamed) and gives back `pruned` with the record as written."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in pruned.module.state_dict().items()}
    record = dict(pruned.record, weights_sha256=weights_sha256(state))
    if source is not None:
        record["source_sha256"] = source.sha256
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / f".{WEIGHTS}.tmp"
    # Tensors that share memory are refused by safetensors: each is written for itself.
    fresh.write_bytes(serialised({name: tensor.clone() for name, tensor in state.items()}, {"format": "pt"}))
    fresh.replace(folder / WEIGHTS)
    fresh = folder / f".{RECORD}.tmp"
    fresh.write_text(dumps(record), encoding="utf-8")
    fresh.replace(folder / RECORD)
    return replace(pruned, record=record)


def dumps(record: Mapping[str, Any]) -> str:
    """The record as it stands in the file: the same record always gives the same bytes."""
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The record and the weights of a saved network."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        state = load((folder / WEIGHTS).read_bytes())
    except OSError as error:
        raise BadModel(
            f"{folder}: expected {RECORD} and {WEIGHTS}, and one of them cannot be read ({error.strerror}).",
            hint="Give the folder of a finished run.",
        ) from error
    except Exception as error:  # safetensors and json each have their own way to say that a file is damaged
        raise BadModel(f"{folder}: {RECORD} or {WEIGHTS} is damaged ({error}).") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        found = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise BadModel(f"{folder / RECORD}: expected schema {SCHEMA}, found {found}.")
    return record, state


def rebuild(fresh: nn.Module, record: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Gives a fresh module of the original architecture the pruned shapes and weights, and returns it in eval mode."""
    found = weights_sha256(state)
    if record.get("weights_sha256") != found:
        raise Mismatch(
            f"The weights are not those of the record: it says {record.get('weights_sha256')}, they hash to {found}.",
            hint="Take model.safetensors and pruning.json from the same run.",
        )
    _check_kept(fresh, record.get("kept", {}), state)
    for name, module in fresh.named_modules():
        _resize(name, module, record.get("kept", {}).get(name, {}), state)
    try:
        fresh.load_state_dict(with_versions(state, fresh), strict=True)
    except RuntimeError as error:
        raise Mismatch(
            f"The record's weights do not fit the architecture that was given: {error}",
            hint=f"The record was made for {record.get('architecture') or 'an architecture without a name'}.",
        ) from error
    return fresh.eval()


def _check_kept(fresh: nn.Module, kept: Mapping[str, Mapping[str, list[int]]], state: Mapping[str, Tensor]) -> None:
    """What the record says is left must be what the weights have."""
    for name, ends in kept.items():
        tensor = state.get(f"{name}.weight")
        if tensor is None:  # a bare parameter, or a layer without one
            continue
        module = dict(fresh.named_modules()).get(name)
        grouped = isinstance(module, nn.Conv2d) and module.groups > 1
        for end, row in ends.items():
            axis = 0 if end == "out" else 1
            if (grouped and axis == 1) or tensor.shape[axis] == len(row) or tensor.dim() <= axis:
                continue
            raise Mismatch(f"{name}: the record keeps {len(row)} positions, the weights have {tensor.shape[axis]}.")


def _resize(name: str, module: nn.Module, kept: Mapping[str, list[int]], state: Mapping[str, Tensor]) -> None:
    prefix = f"{name}." if name else ""
    for key, parameter in list(module.named_parameters(recurse=False)):
        new = state.get(prefix + key)
        if new is not None and new.shape != parameter.shape:
            setattr(module, key, nn.Parameter(torch.empty_like(new), requires_grad=parameter.requires_grad))
    for key, buffer in list(module.named_buffers(recurse=False)):
        new = state.get(prefix + key)
        if new is not None and new.shape != buffer.shape:
            setattr(module, key, torch.empty_like(new))
    if isinstance(module, nn.Conv2d):
        depthwise = 1 < module.groups == module.in_channels == module.out_channels
        module.out_channels = module.weight.shape[0]
        if depthwise:
            module.groups = module.out_channels
        module.in_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif hasattr(module, "num_features") and "out" in kept:  # batch and instance normalisation, with or without weights
        setattr(module, "num_features", len(kept["out"]))  # noqa: B010 (two classes with this field, no common type)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
