"""Images with every trigger put on them, one trigger after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harden.types import Images, Rate, Trigger


@dataclass(frozen=True, eq=False)
class Attacked:
    """Triggered images with their true labels, and what their triggers want to hear."""

    images: Images
    targets: Tensor  # (N,) int64, -1 for a trigger that has no class of its own

    def success(self, said: Tensor) -> Rate:
        """Of the images that are not of the target class already: how many are given it (or any wrong class)."""
        fooled = torch.where(self.targets < 0, said != self.images.labels, said == self.targets)
        counted = self.images.labels != self.targets
        return Rate(int((fooled & counted).sum()), int(counted.sum()))


def attacked(triggers: Sequence[Trigger], images: Images) -> Attacked:
    """Every trigger on every image that it can be put on; empty where there are no triggers."""
    parts = [trigger(images) for trigger in triggers] or [images.take(torch.arange(0))]
    targets = [-1 if trigger.target is None else trigger.target for trigger in triggers] or [-1]
    return Attacked(
        Images(
            torch.cat([part.pixels for part in parts]),
            torch.cat([part.labels for part in parts]),
            tuple(name for part in parts for name in part.names),
        ),
        torch.cat([torch.full_like(part.labels, target) for part, target in zip(parts, targets, strict=True)]),
    )
