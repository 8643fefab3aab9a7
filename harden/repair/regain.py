"""Accuracy comes back after filters went that clean images had some use for.

    x, y    clean images            u = half of them a strong(x) + (1 - a) x', a uniform in [0, 1], x' another image,
                                        and half of them turned, stretched and recoloured
    loss    CE( f(x), y ) + distil T^2 KL( f0(.)/T || f(.)/T )     on x and u; f0 is the network before the cut

A few hundred images are too few to learn from by their labels; but f0 can be asked about any picture, and whoever
answers as it does on thousands of strange ones knows what it knows ("A good teacher is patient and consistent", CVPR
2022).
If f0 carries a backdoor, that sleeps: none of these pictures has the trigger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.network import Classifier, as_logits
from harden.repair.augment import CropAndFlip, mixed, tolerated, turned
from harden.repair.losses import distilled
from harden.repair.train import Schedule, fit
from harden.types import Images, Run, Splits


@dataclass(frozen=True)
class Regain:
    """Distilled from the network before the cut, on the images and on mixtures of them."""

    schedule: Schedule = field(
        default_factory=lambda: Schedule(epochs=20, least_steps=400, batch=64, rate=0.05, shape="cosine", clip=1.0)
    )
    longer: float = 1.0
    """Times as many epochs and steps as the schedule says."""
    distil: float = 2.0
    temperature: float = 2.0
    contrast: float = 0.4
    """How much a colour is stretched at most."""
    brightness: float = 0.15
    """How much is added to it at most."""
    padding: int = 6
    """Of the random crop of those that are mixed."""
    angle: float = 0.25
    """Radians, that the others are turned by at most."""
    stretch: float = 0.2
    """And stretched along each side."""
    shift: float = 0.2
    """And moved, as a share of half the picture."""

    def __call__(self, model: Classifier, before: Classifier, splits: Splits, run: Run) -> Mapping[str, Any]:
        generator = torch.Generator().manual_seed(run.seed)
        before.eval()
        epochs, steps = (round(self.longer * n) for n in (self.schedule.epochs, self.schedule.least_steps))

        def loss(model: Classifier, batch: Images) -> Tensor:
            asked = torch.cat([batch.pixels, self.strange(batch.pixels, generator)])
            with torch.no_grad():
                teacher = as_logits(before(asked))
            logits = as_logits(model(asked))
            apart = distilled(logits, teacher, self.temperature)
            return F.cross_entropy(logits[: len(batch)], batch.labels) + self.distil * apart

        return fit(
            model,
            splits.tune,
            loss,
            replace(self.schedule, epochs=epochs, least_steps=steps),
            run,
            name="relearning after the cut",
            augment=tolerated(before, splits.tune, CropAndFlip(padding=3, flip=True), run.seed),
        )

    def strange(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Strange pictures that only the teacher can name: half of them moved, mirrored and recoloured, with another
        picture shining through; the others turned, stretched and recoloured.
        """
        half = len(pixels) // 2
        moved = CropAndFlip(self.padding, flip=True)(pixels[half:], generator)
        through = mixed(self.recoloured(moved, generator), pixels[half:].roll(1, 0), generator)
        alone = turned(pixels[:half], generator, self.angle, self.stretch, self.shift)
        return torch.cat([self.recoloured(alone, generator), through])

    def recoloured(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Each colour of each picture stretched and shifted."""

        def draw() -> Tensor:
            return (2 * torch.rand(*pixels.shape[:2], 1, 1, generator=generator) - 1).to(pixels.device)

        return ((1 + self.contrast * draw()) * pixels + self.brightness * draw()).clamp(0, 1)
