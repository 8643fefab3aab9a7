"""Machine unlearning of recovered triggers by ascent (after BAERASE, 2201.09538).

    min over theta of  alpha * CE(f(x), y) - CE(f(x~), t) + weight * sum |theta - theta_0|        x~ triggered, t target

Ascent on CE(., t) has no bound, and may move the trigger to another class instead of removing it. With `relabel` the
second term is + CE(f(x~), y), which says where to go and not only where not to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.network import Classifier, predict
from harden.repair.losses import as_logits, cross_entropy
from harden.repair.train import Schedule, fit
from harden.triggers.attacked import attacked
from harden.types import Evidence, Images, Run, Splits


@dataclass(frozen=True)
class Ascent:
    """Stops when the recovered triggers work on hardly an image of the split made for choosing."""

    schedule: Schedule = field(
        default_factory=lambda: Schedule(epochs=10, least_steps=200, rate=1e-4, weight_decay=0.0, freeze_norm=True)
    )
    alpha: float = 100.0
    weight: float = 1e-6
    relabel: bool = False
    until: float = 0.0005
    """Success of the recovered triggers at which it stops."""

    def __call__(
        self, model: Classifier, suspect: Classifier, splits: Splits, evidence: Evidence, run: Run
    ) -> Mapping[str, Any]:
        triggers = [t for t in evidence.triggers if self.relabel or t.known]
        if not triggers:
            return {"epochs": 0, "stopped_because": "no trigger with a target was recovered, so nothing was changed"}
        start = [p.detach() for p in suspect.parameters()]
        anchored = list(zip(model.parameters(), start, strict=False))
        if any(p.shape != q.shape for p, q in anchored):
            anchored = [
                (p, p.detach().clone()) for p in model.parameters()
            ]  # surgery came first: from where it left off
        watched = attacked(triggers, splits.choose)

        def loss(model: Classifier, batch: Images) -> Tensor:
            on = attacked(triggers, batch)
            said = as_logits(model(on.images.pixels))
            if self.relabel:
                second = F.cross_entropy(said, on.images.labels)
            else:
                counted = on.targets != on.images.labels
                second = -(F.cross_entropy(said, on.targets.clamp_min(0), reduction="none") * counted).mean()
            far = torch.stack([(p - q).abs().sum() for p, q in anchored]).sum()
            total: Tensor = self.alpha * cross_entropy(model, batch) + second + self.weight * far
            return total

        def stop(model: Classifier) -> str | None:
            success = watched.success(predict(model, watched.images).argmax(1))
            done = success.total and success.value <= self.until
            return f"the recovered triggers work on {success}" if done else None

        return fit(model, splits.tune, loss, self.schedule, run, name="unlearning triggers", stop=stop)
