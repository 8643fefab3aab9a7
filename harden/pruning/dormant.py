"""Fine-pruning's first half (RAID 2018): filters that clean images hardly use.

a_i = mean over images and positions of max(0, output of filter i),   of the last convolution; smallest first
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from harden.network import Classifier, predict, units
from harden.pruning.ranked import largest_harmless, lowest
from harden.types import Evidence, Proposal, Run, Splits


@dataclass(frozen=True)
class Dormant:
    """Closes the dormant filters of the last convolution, 1 % at a time, as long as accuracy allows."""

    step: float = 0.01
    max_drop: float = 0.1

    def __call__(self, model: Classifier, splits: Splits, evidence: Evidence, run: Run) -> Proposal:  # noqa: ARG002
        parts = units(model)
        if not parts:
            return Proposal((), (), "the network has no convolution")
        name, unit = list(parts.items())[-1]
        total = torch.zeros(unit.width, device=unit.conv.weight.device)

        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
            total.add_(unit.channels_first(output.detach()).clamp(min=0).mean((2, 3)).sum(0))

        handle = unit.last.register_forward_hook(add)
        try:
            predict(model, splits.tune)
        finally:
            handle.remove()
        ranked = lowest({name: total / max(1, len(splits.tune))})
        stride = max(1, round(self.step * unit.width))
        sizes = range(stride, len(ranked) + 1, stride)
        return largest_harmless(model, ranked, sizes, splits.choose, run, max_drop=self.max_drop)
