"""Feature shift tuning (FST, NeurIPS 2023): move the features away from the classifier that knows the trigger.

W drawn anew; then  min CE(f(x), y) + alpha * <W, W_0>,  and after every step  |W|_F = |W_0|_F
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harden.head import NO_HEAD, head
from harden.network import Classifier
from harden.repair.augment import published
from harden.repair.losses import cross_entropy
from harden.repair.train import Schedule, fit, or_as_it_was
from harden.repair.ulrl import redraw_rows
from harden.types import Evidence, Images, Run, Splits


@dataclass(frozen=True)
class FeatureShift:
    """Needs a linear layer at the end, and refuses without one."""

    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=10, least_steps=80, rate=0.01, shape="cosine"))
    alpha: float = 0.1
    augment: bool = True
    """Random crops and mirror images, as far as the suspect takes them."""

    def __call__(
        self,
        model: Classifier,
        suspect: Classifier,
        splits: Splits,
        evidence: Evidence,  # noqa: ARG002
        run: Run,
    ) -> Mapping[str, Any]:
        last = head(model)
        if last is None:
            return {"refused": NO_HEAD}
        before = deepcopy(model.state_dict())
        old = last.weight.detach().clone()
        redraw_rows(last, list(range(last.out_features)), run.seed)

        def loss(model: Classifier, batch: Images) -> Tensor:
            return cross_entropy(model, batch) + self.alpha * (last.weight * old).sum()

        def rescale(_: Classifier) -> None:
            with torch.no_grad():
                last.weight.mul_(old.norm() / last.weight.norm().clamp_min(1e-12))

        record = fit(
            model,
            splits.tune,
            loss,
            self.schedule,
            run,
            name="feature shift tuning",
            augment=published(suspect, splits.tune, run.seed) if self.augment else None,
            after_step=rescale,
        )
        return or_as_it_was(model, before, record)
