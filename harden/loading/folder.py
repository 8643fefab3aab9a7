"""Folders of timm and Hugging Face: config.json beside the weights, read offline and without their loaders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from harden.errors import BadModel
from harden.loading import hugging_face
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
    return replace(scanned, contents=replace(scanned.contents, **read_config(config)))


def read_config(path: Path) -> dict[str, Any]:
    """What config.json says of the weights, as fields of their contents: architecture, names and contract."""
    config = _read(path)
    name = config.get("architecture")
    if name is None and hugging_face.class_of(config):
        return _of_transformers(config, path)
    inputs = config.get("pretrained_cfg", config)
    if not isinstance(name, str) or not isinstance(inputs, dict):
        return {}
    entries = {key: inputs.get(key) for key in ("input_size", "mean", "std")}
    entries["num_classes"] = config.get("num_classes")
    labels = config.get("label_names")
    if isinstance(labels, list):
        entries["classes"] = labels
    return {"architecture": f"timm:{name}", "contract": check_entries(entries, str(path))}


def _of_transformers(config: dict[str, Any], path: Path) -> dict[str, Any]:
    preparation = path.with_name("preprocessor_config.json")
    entries = hugging_face.entries_of(config, _read(preparation) if preparation.is_file() else {})
    said = {"contract": check_entries(entries, str(path))}
    architecture = hugging_face.architecture_of(config)
    if architecture is None:
        advice = hugging_face.advice(hugging_face.class_of(config))
        return {**said, "advice": advice, "remarks": (advice,)}
    return {**said, "architecture": architecture, "rename": hugging_face.torchvision_name}


def _read(path: Path) -> dict[str, Any]:
    """A file of settings."""
    try:
        config = json.loads(read_bytes(path, MAX_CONFIG).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadModel(f"{path} is no JSON: {str(error)[:120]}") from None
    if not isinstance(config, dict):
        raise BadModel(f"{path} holds no settings")
    return config
