"""Folders of transformers: which architecture of torchvision they are, by which names, and how images are prepared.

Only what is exactly the same network is translated: ResNets as torchvision has them. transformers' ConvNext normalises
its features with another epsilon, its MobileNetV2 pads otherwise; these, and all others, are told what to do instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_RESNETS: dict[str, tuple[str, list[int], list[int]]] = {
    "resnet18": ("basic", [2, 2, 2, 2], [64, 128, 256, 512]),
    "resnet34": ("basic", [3, 4, 6, 3], [64, 128, 256, 512]),
    "resnet50": ("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048]),
    "resnet101": ("bottleneck", [3, 4, 23, 3], [256, 512, 1024, 2048]),
    "resnet152": ("bottleneck", [3, 8, 36, 3], [256, 512, 1024, 2048]),
}
"""layer_type, depths and hidden_sizes of each."""
_FIXED = {
    "embedding_size": 64,
    "hidden_act": "relu",
    "downsample_in_first_stage": False,
    "downsample_in_bottleneck": False,
}
_LAYER = re.compile(
    r"resnet\.encoder\.stages\.(\d)\.layers\.(\d+)\.(shortcut|layer\.\d)\.(convolution|normalization)\.(\w+)"
)
_OUTER = {
    "resnet.embedder.embedder.convolution": "conv1",
    "resnet.embedder.embedder.normalization": "bn1",
    "classifier.1": "fc",
}


def class_of(config: Mapping[str, Any]) -> str:
    """The class of transformers that a config.json names; empty where it names none."""
    names = config.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def architecture_of(config: Mapping[str, Any]) -> str | None:
    """The architecture of torchvision that is the same network, or None."""
    if class_of(config) != "ResNetForImageClassification":
        return None
    if any(config.get(key, value) != value for key, value in _FIXED.items()):
        return None
    depths, widths = config.get("depths", [3, 4, 6, 3]), config.get("hidden_sizes", [256, 512, 1024, 2048])
    kind = config.get("layer_type", "bottleneck")
    found = (name for name, form in _RESNETS.items() if form == (kind, depths, widths))
    return next((f"torchvision:{name}" for name in found), None)


def torchvision_name(name: str) -> str:
    """What torchvision calls a weight of transformers' ResNet; other names as they are."""
    inner = _LAYER.fullmatch(name)
    if inner is None:
        module, _, last = name.rpartition(".")
        return f"{_OUTER[module]}.{last}" if module in _OUTER else name
    stage, block, place, kind, last = inner.groups()
    number = place.removeprefix("layer.")
    if place == "shortcut":
        part = f"downsample.{int(kind == 'normalization')}"
    else:
        part = f"{'conv' if kind == 'convolution' else 'bn'}{int(number) + 1}"
    return f"layer{int(stage) + 1}.{block}.{part}.{last}"


def entries_of(config: Mapping[str, Any], preparation: Mapping[str, Any]) -> dict[str, Any]:
    """The contract's entries, of config.json and preprocessor_config.json; None where they do not say."""
    labels = config.get("id2label")
    labels = labels if isinstance(labels, dict) and all(str(key).isdecimal() for key in labels) else {}
    names = [labels[key] for key in sorted(labels, key=int)]
    generic = all(str(name).startswith("LABEL_") for name in names)  # also where there are none
    cropped = preparation.get("crop_size") if preparation.get("do_center_crop") else None
    side = _side(cropped or preparation.get("size"))
    channels = config.get("num_channels", 3)
    normalised = preparation.get("do_normalize", True)
    return {
        "classes": None if generic or len({*map(str, names)}) < len(names) else names,
        "input_size": None if side is None else [channels, *side],
        "mean": preparation.get("image_mean") if normalised else [0.0],
        "std": preparation.get("image_std") if normalised else [1.0],
    }


def advice(name: str) -> str:
    """What somebody can do whose class of transformers is not read here."""
    return (
        f"it is transformers' {name}, which is not built here: export it to ONNX and give that file, or --arch "
        "FILE.py:FUNCTION for a subclass of it whose forward returns the logits alone"
    )


def _side(size: Any) -> tuple[Any, Any] | None:
    """Height and width, in any of the forms that they come in."""
    if isinstance(size, int):
        return size, size
    if not isinstance(size, dict):
        return None
    if "height" in size and "width" in size:
        return size["height"], size["width"]
    return (size["shortest_edge"],) * 2 if "shortest_edge" in size else None
