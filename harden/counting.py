"""The size of a network: its parameters, and the multiplications with addition (MACs) for one image.

    convolution    out_height * out_width * out_channels * in_channels / groups * kernel_height * kernel_width
    linear layer   positions * out_features * in_features

Counted where the time goes, in convolutions and linear layers; normalisation and activations are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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

    handles = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    sample = next((p for p in module.parameters() if p.is_floating_point()), torch.zeros(0))
    try:
        with borrowed(module), torch.no_grad():
            module.eval()
            module(torch.zeros(1, *input_size, device=sample.device, dtype=sample.dtype))
    finally:
        for handle in handles:
            handle.remove()
    return total
