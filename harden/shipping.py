"""From the healed network to the file that would ship, and everything that is measured on that file itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from harden.measure import measure_file
from harden.network import Classifier
from harden.outcome import Exported, Parity, ShippedFile, Speed
from harden.plan import Plan
from harden.types import Contract, Images, Pruned, Rate, Source, Trigger

if TYPE_CHECKING:
    from harden_export.onnx_file import Preprocessing

ONNX = "model.onnx"
QUARANTINE = "quarantine"
"""Where the files go that the verdict does not let ship."""


def export_draft(
    healed: Pruned,
    suspect: Classifier,
    source: Source,
    images: Images,
    triggers: Sequence[Trigger],
    plan: Plan,
    to: Path,
) -> Exported:
    """Writes model.onnx into the folder `to`, runs it in ONNX Runtime on all images, and times it."""
    from harden_export.onnx_file import Preprocessing, export_onnx
    from harden_export.parity import measure_parity
    from harden_export.runtime import OnnxModel

    contract = suspect.contract
    embed = Preprocessing(contract.mean, contract.std) if plan.embed_preprocessing else None
    size = contract.input_size
    file = export_onnx(
        healed.module,
        to / ONNX,
        input_size=size,
        metadata=metadata(contract, source, healed),
        opset=plan.opset,
        embed_preprocessing=embed,
    )
    model = OnnxModel(file.path)
    inputs = prepared(images, contract, embed)
    parity = measure_parity(reference(healed.module, embed), model, inputs, images.names)
    return Exported(
        opset=file.opset,
        files=(ShippedFile(ONNX, file.kind, file.sha256, file.bytes),),
        parity=Parity(parity.max_abs, parity.max_relative, Rate(parity.agree, parity.images)),
        measured=measure_file(model, contract, images, triggers),
        latency=_latency(suspect, file.path, embed, plan, to) if plan.latency else (),
    )


def metadata(contract: Contract, source: Source, healed: Pruned) -> dict[str, str]:
    """What the file says about itself."""
    from harden import __version__
    from harden_export.bundle import contract_metadata

    removed: dict[str, list[int]] = {}
    for layer, index in healed.removed:
        removed.setdefault(layer, []).append(index)
    return {
        **contract_metadata(
            classes=contract.classes, input_size=contract.input_size, mean=contract.mean, std=contract.std
        ),
        "harden.version": __version__,
        "harden.source_sha256": source.sha256,
        "harden.removed_filters": json.dumps(removed, ensure_ascii=False),
    }


def prepared(images: Images, contract: Contract, embed: Preprocessing | None) -> NDArray[Any]:
    """Images as the file takes them: normalised, or bytes as an image file decodes to."""
    pixels = images.pixels.cpu()
    if embed is not None:
        return np.ascontiguousarray((pixels * 255).round().byte().permute(0, 2, 3, 1).numpy())
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (contract.mean, contract.std))
    return np.ascontiguousarray(((pixels - mean) / std).numpy())


def reference(module: nn.Module, embed: Preprocessing | None) -> Any:
    """The network as a function of the file's own inputs."""
    from copy import deepcopy

    from harden_export.onnx_file import with_preprocessing

    network = deepcopy(module).cpu().eval() if embed is None else with_preprocessing(module, embed)

    @torch.no_grad()
    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        logits: NDArray[Any] = network(torch.from_numpy(inputs)).numpy()
        return logits

    return run


def _latency(
    suspect: Classifier, hardened: Path, embed: Preprocessing | None, plan: Plan, to: Path
) -> tuple[Speed, ...]:
    """The hardened file against the suspect exported in the same way, interleaved."""
    from harden_export.latency import measure_latency
    from harden_export.onnx_file import export_onnx

    original = to / "original.onnx"
    size = suspect.contract.input_size
    export_onnx(suspect.network, original, input_size=size, metadata={}, opset=plan.opset, embed_preprocessing=embed)
    try:
        found = measure_latency(
            {"original": original, "hardened": hardened}, batches=(1, 32), threads=(1,), seconds=1.0, seed=plan.seed
        )
    finally:
        original.unlink()
    return tuple(
        Speed(m.name, m.batch, m.threads, m.median_ms, m.p95_ms, m.speedup, m.speedup_low, m.speedup_high)
        for m in found
    )
