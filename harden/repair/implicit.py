"""Adversarial unlearning of one universal perturbation, with an implicit hyper-gradient (I-BAU, ICLR 2022).

    inner     d* = argmin over d of  G(theta, d) = -CE(f(x + d), y) + decay * |d|^2        one pass of gradient steps
    outer     min over theta of  L(theta, d) = CE of a batch in which a few images carry d
    gradient  dL/dtheta + v dPhi/dtheta,    Phi = d - step * dG/dd,    v <- v dPhi/dd + dL/dd    K times

The last line is the gradient of  L(theta, d) + <v, Phi(theta, d)>  with v and d held fixed: that is the loss below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.network import Classifier
from harden.repair.losses import as_logits
from harden.repair.train import Schedule, fit
from harden.types import Evidence, Images, Run, Splits


@dataclass(frozen=True)
class ImplicitUnlearning:
    """One round is one epoch: a new perturbation, then a pass over the images."""

    schedule: Schedule = field(
        default_factory=lambda: Schedule(
            epochs=5, batch=100, rate=1e-3, optimizer="adam", weight_decay=0.0, freeze_norm=True
        )
    )
    share: float = 0.01
    """Of a batch that carries the perturbation, at least one image."""
    fixed_point_steps: int = 5
    inner_rate: float = 10.0
    step: float = 0.1
    """Of the map Phi."""
    decay: float = 1e-3

    def __call__(
        self,
        model: Classifier,
        suspect: Classifier,  # noqa: ARG002
        splits: Splits,
        evidence: Evidence,  # noqa: ARG002
        run: Run,
    ) -> Mapping[str, Any]:
        d = torch.zeros(1, *model.contract.input_size, device=model.mean.device)

        def inner(h: Classifier, batch: Images, d: Tensor) -> Tensor:
            goal = -F.cross_entropy(as_logits(h(batch.pixels + d)), batch.labels)
            return goal + self.decay * d.square().sum()

        def perturb(h: Classifier) -> None:
            nonlocal d
            d = torch.zeros_like(d)
            for index in torch.arange(len(splits.tune)).split(self.schedule.batch):
                d.requires_grad_(True)
                (slope,) = torch.autograd.grad(inner(h, splits.tune.take(index), d), d)
                d = (d - self.inner_rate * slope).detach()

        def loss(h: Classifier, batch: Images) -> Tensor:
            count = max(1, math.ceil(self.share * len(batch)))
            z = d.clone().requires_grad_(True)
            stamped = torch.cat([batch.pixels[:count] + z, batch.pixels[count:]])
            outer = F.cross_entropy(as_logits(h(stamped)), batch.labels)
            (direct,) = torch.autograd.grad(outer, z, retain_graph=True)
            (slope,) = torch.autograd.grad(inner(h, batch, z), z, create_graph=True)
            phi = z - self.step * slope
            v = direct
            for _ in range(self.fixed_point_steps):
                (back,) = torch.autograd.grad(phi, z, v, retain_graph=True)
                v = back + direct
            total: Tensor = outer + (v.detach() * phi).sum()
            return total

        record = fit(model, splits.tune, loss, self.schedule, run, name="implicit unlearning", before_epoch=perturb)
        return {**record, "perturbation_norm": float(d.norm())}
