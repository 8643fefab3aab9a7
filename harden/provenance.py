"""What an ONNX file says about itself in its metadata_props, besides the contract that its users need.

version                                     of this program; all of these begin with "harden."
source_sha256, source_format, architecture  the file that it was made from
data_sha256, plan_sha256, method            what it was made with
removed_filters, masked_filters             what was done to it, by layer
measured                                    what it was seen to do, in ONNX Runtime
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from harden import __version__
from harden.outcome import Portion
from harden.reports.records import encode
from harden.types import Contract, Filter, Images, Measurement, Pruned, Source, Splits


def portions(splits: Splits) -> tuple[Portion, ...]:
    """What each part of the images was, so that it can be told whether others are the same."""
    named = (("tune", splits.tune), ("choose", splits.choose), ("verify", splits.verify))
    return tuple(Portion(name, len(images), digest(images)) for name, images in named)


def digest(images: Images) -> str:
    """One hash over names, labels and pixels."""
    found = hashlib.sha256(json.dumps([images.names, images.labels.tolist(), list(images.pixels.shape)]).encode())
    found.update(images.pixels.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def metadata(
    contract: Contract,
    source: Source,
    network: Pruned,
    data: tuple[Portion, ...] = (),
    settings: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """What a file says about itself before anything was measured on it."""
    from harden_export.bundle import contract_metadata

    about = {
        "version": __version__,
        "source_sha256": source.sha256,
        "source_format": source.format,
        "removed_filters": _json(_by_layer(network.removed)),
    }
    if network.masked:
        about["masked_filters"] = _json(_by_layer(network.masked))
    if contract.architecture is not None:
        about["architecture"] = placeless(contract.architecture)
    if data:
        about["data_sha256"] = _json({portion.name: portion.sha256 for portion in data})
    if settings is not None:
        about["plan_sha256"] = plan_sha256(settings)
        about["method"] = str(settings["method"]["name"])
    inputs = contract_metadata(
        classes=contract.classes, input_size=contract.input_size, mean=contract.mean, std=contract.std
    )
    return {**inputs, **{f"harden.{key}": value for key, value in about.items()}}


def figures(measured: Measurement, provider: str) -> dict[str, str]:
    """What was measured on the file. How long it takes is a machine's and not a file's: that stands in the report."""
    found = {"accuracy": measured.accuracy, "attack_success": measured.attack_success, "provider": provider}
    return {"harden.measured": _json(encode(found))}


def placeless(architecture: str) -> str:
    """FILE.py:FUNCTION without its folder, which is nobody's business but this machine's."""
    return architecture if architecture.startswith(("torchvision:", "timm:")) else PurePath(architecture).name


def plan_sha256(settings: Mapping[str, Any]) -> str:
    """Of the settings as they stand in report.json, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(encode(settings), sort_keys=True).encode()).hexdigest()


def _by_layer(filters: tuple[Filter, ...]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for layer, index in filters:
        found.setdefault(layer, []).append(index)
    return found


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
