"""The size of a network: its parameters, and the multiplications with addition (MACs) for one image.

    convolution    out_height * out_width * out_channels * in_channels / groups * kernel_height * kernel_width
    linear layer   positions * out_features * in_features

Counted where the time goes, in convolutions and linear layers; normalisation and activations are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harden.network import borrowed


def count_parameters(module: nn.Module) -> int:
    """Every parameter once, however many layers share it."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(module: nn.Module, input_size: Sequence[int]) -> int:
    """What one image of this size (channels, height, width) costs."""
    return sum(macs_by_layer(module, input_size).values())


def macs_by_layer(module: nn.Module, input_size: Sequence[int]) -> dict[str, int]:
    """The same, for each convolution and linear layer."""
    names = {layer: name for name, layer in module.named_modules()}
    total: dict[str, int] = {}

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        macs = 0
        if isinstance(layer, nn.Conv2d):
            macs = output[0].numel() * layer.in_channels // layer.groups * math.prod(layer.kernel_size)
        elif isinstance(layer, nn.Linear):
            macs = output[0].numel() * layer.in_features
        total[names[layer]] = total.get(names[layer], 0) + macs

    _one_image(module, input_size, count, [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
    return total


def count_outputs(module: nn.Module, input_size: Sequence[int]) -> int:
    """Numbers that the layers put out for one image, which a backward pass needs again."""
    total = 0

    def count(_layer: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        total += output.numel() if isinstance(output, Tensor) else 0

    _one_image(module, input_size, count, [m for m in module.modules() if not any(m.children())])
    return total


def _one_image(
    module: nn.Module,
    input_size: Sequence[int],
    hook: Callable[[nn.Module, tuple[Any, ...], Any], None],
    layers: Sequence[nn.Module],
) -> None:
    """Sends one image through and calls the hook after each of these layers."""
    handles = [layer.register_forward_hook(hook) for layer in layers]
    sample = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(0))
    try:
        with borrowed(module), torch.no_grad():
            module.eval()
            module(torch.zeros(1, *input_size, device=sample.device, dtype=sample.dtype))
    finally:
        for handle in handles:
            handle.remove()
