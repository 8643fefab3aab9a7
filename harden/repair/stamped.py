"""A share of every batch carries a recovered trigger and keeps its true label (Neural Cleanse, S&P 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harden.network import Classifier
from harden.repair.augment import published
from harden.repair.losses import cross_entropy
from harden.repair.train import Schedule, fit
from harden.triggers.attacked import attacked
from harden.types import Evidence, Images, Run, Splits


@dataclass(frozen=True)
class Stamped:
    """Without a recovered trigger the model stays as it is, as in the published code."""

    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=100, batch=256, rate=0.01, shape="cosine"))
    share: float = 0.2
    """Of each batch, for each trigger."""

    def __call__(
        self,
        model: Classifier,
        suspect: Classifier,
        splits: Splits,
        evidence: Evidence,
        run: Run,
    ) -> Mapping[str, Any]:
        if not evidence.triggers:
            return {"epochs": 0, "stopped_because": "no trigger was recovered, so nothing was changed"}

        def loss(model: Classifier, batch: Images) -> Tensor:
            count = max(1, round(self.share * len(batch)))
            stamped = attacked(evidence.triggers, batch.take(torch.arange(min(count, len(batch))))).images
            mixed = Images(
                torch.cat([stamped.pixels, batch.pixels[count:]]),
                torch.cat([stamped.labels, batch.labels[count:]]),
                stamped.names + batch.names[count:],
            )
            return cross_entropy(model, mixed)

        augment = published(suspect, splits.tune, run.seed)
        return fit(model, splits.tune, loss, self.schedule, run, name="unlearning stamped images", augment=augment)
