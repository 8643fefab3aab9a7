"""Adversarial neuron pruning (ANP, NeurIPS 2021): filters that let a tiny noise on the weights open the backdoor.

noise    (d, e) = argmax over |d|, |e| <= eps of CE(m + d, 1 + e)      random start, one sign step of size eps
mask     min over 0 <= m <= 1 of  alpha * CE(m) + (1 - alpha) * CE(m + d, 1 + e)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.network import Classifier, units
from harden.pruning.multipliers import multiplied, ones
from harden.pruning.ranked import largest_harmless, lowest, up_to
from harden.repair.losses import as_logits
from harden.repair.train import Schedule, fit
from harden.types import Evidence, Images, Proposal, Run, Splits

GRID = tuple(round(0.05 * k, 2) for k in range(19))  # 0 ... 0.90, as published


@dataclass(frozen=True)
class AdversarialMask:
    """Learns the mask on a copy; without batch norm it sits on the convolutions."""

    schedule: Schedule = field(
        default_factory=lambda: Schedule(epochs=1, least_steps=2000, batch=128, rate=0.2, weight_decay=0.0)
    )
    eps: float = 0.4
    alpha: float = 0.2
    thresholds: tuple[float, ...] = GRID
    max_drop: float = 0.1

    def __call__(self, model: Classifier, splits: Splits, evidence: Evidence, run: Run) -> Proposal:  # noqa: ARG002
        copy = model.copy()
        parts = units(copy)
        if not parts:
            return Proposal((), (), "the network has no convolution")
        mask = ones(parts)
        generator = torch.Generator().manual_seed(run.seed)

        def noise() -> dict[str, Tensor]:
            return {
                k: ((2 * torch.rand(len(m), generator=generator) - 1) * self.eps)
                .to(m.device)
                .requires_grad_(self.eps > 0)
                for k, m in mask.items()
            }

        def loss(h: Classifier, batch: Images) -> Tensor:
            d, e = noise(), noise()
            with multiplied(parts, mask):
                quiet = F.cross_entropy(as_logits(h(batch.pixels)), batch.labels)
            if not self.eps:
                return self.alpha * quiet
            with multiplied(parts, mask, d, e):
                first = F.cross_entropy(as_logits(h(batch.pixels)), batch.labels)
            slopes = torch.autograd.grad(first, [*d.values(), *e.values()], allow_unused=True)
            worst = [
                (n.detach() + self.eps * (0 if s is None else s.sign())).clamp(-self.eps, self.eps)
                for n, s in zip([*d.values(), *e.values()], slopes, strict=True)
            ]
            d, e = dict(zip(d, worst[: len(d)], strict=True)), dict(zip(e, worst[len(d) :], strict=True))
            with multiplied(parts, mask, d, e):
                loud = F.cross_entropy(as_logits(h(batch.pixels)), batch.labels)
            return self.alpha * quiet + (1 - self.alpha) * loud

        def clamp(_: Classifier) -> None:
            with torch.no_grad():
                for m in mask.values():
                    m.clamp_(0, 1)

        fit(
            copy,
            splits.tune,
            loss,
            self.schedule,
            run,
            name="adversarial mask",
            parameters=list(mask.values()),
            after_step=clamp,
        )
        ranked = lowest({k: m.detach() for k, m in mask.items()})
        return largest_harmless(
            model, ranked, up_to(ranked, self.thresholds), splits.choose, run, max_drop=self.max_drop
        )
