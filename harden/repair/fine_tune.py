"""Fine-tuning on clean images, plain or sharpness-aware.

    plain            theta <- theta - rate * g,            g = grad L(theta)
    sharpness-aware  theta <- theta - rate * grad L(theta + e),   e = rho * T^2 g / |T g|,   T = diag |theta|

The adaptive T moves large weights most, and backdoors sit in large weights (FT-SAM, ICCV 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harden.network import Classifier
from harden.repair.augment import published
from harden.repair.losses import clean_loss, smoothed
from harden.repair.train import Descend, Schedule, fit, plain
from harden.types import Evidence, Run, Splits


@dataclass(frozen=True)
class FineTune:
    """Clean cross-entropy and nothing else; needs no batch norm, no linear head and no evidence."""

    schedule: Schedule = field(default_factory=Schedule)
    smoothing: float = 0.0
    """Of the labels."""
    rho: float = 0.0
    """Radius of the sharpness-aware step; 0: the plain gradient."""
    augment: bool = True
    """Random crops and mirror images, as far as the suspect takes them."""
    best: bool = False
    """Keep the epoch with the least clean loss on the split made for choosing, not the last."""

    def __call__(
        self,
        model: Classifier,
        suspect: Classifier,
        splits: Splits,
        evidence: Evidence,  # noqa: ARG002
        run: Run,
    ) -> Mapping[str, Any]:
        return fit(
            model,
            splits.tune,
            smoothed(self.smoothing),
            self.schedule,
            run,
            name="fine-tuning",
            descend=sharpness_aware(self.rho) if self.rho else plain,
            augment=published(suspect, splits.tune, run.seed) if self.augment else None,
            validate=(lambda m: -clean_loss(m, splits.choose)) if self.best else None,
        )


def sharpness_aware(rho: float) -> Descend:
    """Fills in the gradient taken at the worst point nearby, in the metric of the weights' own sizes."""

    def descend(closure: Callable[[], Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
        loss = plain(closure, parameters)
        with torch.no_grad():
            moved = [(p, p.grad) for p in parameters if p.grad is not None]
            scaled = [p.abs() * g for p, g in moved]  # T g
            norm = torch.stack([s.norm() for s in scaled]).norm().clamp_min(1e-12)
            steps = [rho * p.abs() * s / norm for (p, _), s in zip(moved, scaled, strict=True)]
            before = [p.clone() for p, _ in moved]
            for (p, _), e in zip(moved, steps, strict=True):
                p.add_(e)
                p.grad = None
        plain(closure, parameters)
        with torch.no_grad():
            for (p, _), value in zip(moved, before, strict=True):
                p.copy_(value)  # not p - e, which would not give the same bits back
        return loss

    return descend
