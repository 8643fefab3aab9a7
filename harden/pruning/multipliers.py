"""Multipliers on the filters of a network, to be learned, without touching its weights.

A unit sends out  s * n + b  (s the scale and b the shift of its normalisation; without one, b the convolution's
bias). With a mask m, and noise d on the scale and e on the shift, it sends out

    (m + d) * s * n + (1 + e) * b
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harden.network import Unit


def ones(parts: Mapping[str, Unit]) -> dict[str, nn.Parameter]:
    """A mask that changes nothing."""
    return {name: nn.Parameter(torch.ones(u.width, device=u.conv.weight.device)) for name, u in parts.items()}


@contextmanager
def multiplied(
    parts: Mapping[str, Unit],
    mask: Mapping[str, Tensor],
    scale_noise: Mapping[str, Tensor] | None = None,
    shift_noise: Mapping[str, Tensor] | None = None,
) -> Iterator[None]:
    """The network with these multipliers, for the length of a with-block."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        along = parts[name].along

        def multiply(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:  # noqa: ARG001
            m = mask[name] if scale_noise is None else mask[name] + scale_noise[name]
            bias: Tensor | None = getattr(module, "bias", None)
            m = along(m)
            if bias is None:
                return output * m
            bias = along(bias)
            e = 0 if shift_noise is None else along(shift_noise[name])
            return (output - bias) * m + bias * (1 + e)

        return multiply

    handles = [unit.last.register_forward_hook(hook(name)) for name, unit in parts.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
