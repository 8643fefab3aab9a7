"""Images with triggers put on them: with every one, or shared out among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harden.data import together
from harden.types import Images, Rate, Trigger


@dataclass(frozen=True, eq=False)
class Attacked:
    """Triggered images with their true labels, and what their triggers want to hear."""

    images: Images
    targets: Tensor  # (N,) int64, -1 for a trigger of which nobody knows what it makes of each class

    def success(self, said: Tensor) -> Rate:
        """Of the images that are not of that class already: how many are given it (any wrong one, if nobody knows)."""
        fooled = torch.where(self.targets < 0, said != self.images.labels, said == self.targets)
        counted = self.images.labels != self.targets
        return Rate(int((fooled & counted).sum()), int(counted.sum()))


def attacked(triggers: Sequence[Trigger], images: Images) -> Attacked:
    """Every trigger on every image that it can be put on; empty where there are no triggers."""
    parts = [trigger(images) for trigger in triggers] or [images.take(torch.arange(0))]
    wanted = [trigger.wanted(part.labels) for trigger, part in zip(triggers, parts, strict=False)] or [parts[0].labels]
    return Attacked(together(*parts), torch.cat(wanted))


def shared_out(triggers: Sequence[Trigger], images: Images) -> Images:
    """Every image with one of the triggers, if it can be put on it: one stretch of the images for each trigger."""
    stretches = torch.arange(len(images)).tensor_split(len(triggers))
    parts = [images.take(stretch) for stretch in stretches if len(stretch)]
    return together(*(trigger(part) for trigger, part in zip(triggers, parts, strict=False)))
