"""Folders of timm and Hugging Face: config.json beside the weights, read offline and without their loaders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from harden.errors import BadModel
from harden.loading.contract import check_entries
from harden.loading.scan import Scanned, read_bytes, scan

MAX_CONFIG = 16 * 2**20
_WEIGHTS = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin", "model.pt", "model.pth")
"""The safest first."""


def scan_folder(folder: Path, max_size: int, **how: bool) -> Scanned:
    """The weights in a folder, with what config.json says of architecture and inputs."""
    present = [folder / name for name in _WEIGHTS if (folder / name).is_file()]
    if not present:
        raise BadModel(
            f"{folder} is a folder without any of {', '.join(_WEIGHTS)}",
            hint="name the model file itself; weights in several parts have to be joined first",
        )
    weights = present[0]
    if not weights.resolve().is_relative_to(folder.resolve()):
        raise BadModel(f"{weights} is a link that leaves its folder", hint="copy the file into the folder")
    scanned = scan(weights, max_size, **how)
    config = folder / "config.json"
    if not config.is_file():
        return scanned
    architecture, contract = read_config(config)
    return replace(scanned, contents=replace(scanned.contents, architecture=architecture, contract=contract))


def read_config(path: Path) -> tuple[str | None, dict[str, Any]]:
    """The architecture and the contract's entries; timm's settings or those of transformers' ResNet-like models."""
    try:
        config = json.loads(read_bytes(path, MAX_CONFIG).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{path} is no JSON: {str(error)[:120]}") from None
    if not isinstance(config, dict):
        raise BadModel(f"{path} holds no settings")
    name = config.get("architecture")
    inputs = config.get("pretrained_cfg", config)
    if not isinstance(name, str) or not isinstance(inputs, dict):
        return None, {}
    entries = {key: inputs.get(key) for key in ("input_size", "mean", "std")}
    entries["num_classes"] = config.get("num_classes")
    labels = config.get("label_names")
    if isinstance(labels, list):
        entries["classes"] = labels
    return f"timm:{name}", check_entries(entries, str(path))
