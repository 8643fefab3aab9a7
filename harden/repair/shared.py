"""Shared adversarial unlearning (SAU, 2307.10562): unlearn the mistakes that suspect and candidate have in common.

h0 is the suspect, h the candidate, B the images in a batch.

    inner   min over |d|_inf <= eps of  adv * L_adv + share * L_share                   sign steps, d starts at +eps
            L_adv   = -1/(2B) sum over h right of CE(h(x+d), y)  -1/(2B) sum over h0 right of CE(h0(x+d), y)
            L_share =  1/B    sum over not shared of JS( h(x+d) || h0(x+d) )
            shared: both are wrong, and say the same class
    outer   min over h of  clean * CE(h(x), y) + unlearn * L_sar
            L_sar   = -1/B sum over h0 wrong of log( 1 - p_h(c | x+d) ),  c = what h0 says
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.network import Classifier
from harden.repair.losses import as_logits, clean_loss
from harden.repair.train import Schedule, fit
from harden.types import Evidence, Images, Run, Splits


@dataclass(frozen=True)
class SharedAdversarial:
    """Per-sample perturbations shared by two networks; no target, no trigger, no batch norm needed."""

    schedule: Schedule = field(
        default_factory=lambda: Schedule(
            epochs=100, batch=256, rate=1e-4, optimizer="adam", weight_decay=0.0, freeze_norm=True, drop=False
        )
    )
    adv: float = 0.01
    share: float = 1.0
    clean: float = 1.0
    unlearn: float = 1.0
    eps: float = 0.2
    steps: int = 5
    step: float = 0.2
    best: bool = False
    """Keep the epoch of least clean loss on the split made for choosing; published: the last."""

    def __call__(
        self,
        model: Classifier,
        suspect: Classifier,
        splits: Splits,
        evidence: Evidence,  # noqa: ARG002
        run: Run,
    ) -> Mapping[str, Any]:
        suspect.eval()

        def loss(h: Classifier, batch: Images) -> Tensor:
            x, y = batch.pixels, batch.labels
            attacked = x + self.perturb(h, suspect, x, y)
            said = as_logits(h(torch.cat([x, attacked])))
            with torch.no_grad():
                c = suspect(attacked).argmax(1)
            forbidden = -log_not(said[len(x) :], c) * (c != y)
            total: Tensor = self.clean * F.cross_entropy(said[: len(x)], y) + self.unlearn * forbidden.mean()
            return total

        return fit(
            model,
            splits.tune,
            loss,
            self.schedule,
            run,
            name="shared adversarial unlearning",
            validate=(lambda m: -clean_loss(m, splits.choose)) if self.best else None,
        )

    def perturb(self, h: Classifier, h0: Classifier, x: Tensor, y: Tensor) -> Tensor:
        """The inner problem, for each image by itself."""
        d = torch.full_like(x, self.eps)
        for _ in range(self.steps):
            d.requires_grad_(True)
            a, b = as_logits(h(x + d)), as_logits(h0(x + d))
            said, said0 = a.argmax(1), b.argmax(1)
            shared = (said == said0) & (said != y)
            if bool(shared.all()):
                break
            right, right0 = (said == y).float(), (said0 == y).float()
            fooled = (right * F.cross_entropy(a, y, reduction="none")).sum()
            fooled = fooled + (right0 * F.cross_entropy(b, y, reduction="none")).sum()
            apart = (jensen_shannon(a, b) * (~shared).float()).sum()
            goal = (self.share * apart - self.adv * fooled / 2) / len(x)
            (slope,) = torch.autograd.grad(goal, d)
            d = (d.detach() - self.step * slope.sign()).clamp(-self.eps, self.eps)
        found: Tensor = d.detach()
        return found


def log_not(logits: Tensor, c: Tensor) -> Tensor:
    """log(1 - p_c), exact however sure the network is: the published code clamps p, and its gradient ends there."""
    others = logits.scatter(1, c[:, None], -torch.inf)
    return torch.logsumexp(others, 1) - torch.logsumexp(logits, 1)


def jensen_shannon(a: Tensor, b: Tensor) -> Tensor:
    """JS divergence of two rows of logits, (N, C) -> (N,)."""
    p, q = a.log_softmax(1), b.log_softmax(1)
    m = (0.5 * (p.exp() + q.exp())).clamp_min(1e-12).log()
    js: Tensor = 0.5 * ((p.exp() * (p - m)).sum(1) + (q.exp() * (q - m)).sum(1))
    return js
