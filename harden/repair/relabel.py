"""Relabelling: learn that a triggered image is still what it shows.

    loss  = CE(f(x), y) + CE(f(x~), y)        x clean, x~ its triggered twin, y the true label

Where several triggers stand in for the attacker's, each image of a batch carries one of them.

Stops when the same sum on the split made for choosing has had no new minimum for `patience` epochs, and returns to
that minimum. (As published it is watched on clean images alone, which can return to a network that has not
relearned anything.) Filters that are closed stay closed: the trainer sees to it after every step.

Batch normalisation keeps its statistics. As published, batches of clean and of triggered images take turns in train
mode, where each is normalised by its own statistics: a trigger that changes the whole picture is then hardly to be
seen, nothing is learned about it, and afterwards it is there again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from harden.network import Classifier
from harden.repair.losses import clean_loss, cross_entropy
from harden.repair.train import Schedule, fit
from harden.triggers.attacked import attacked, shared_out
from harden.types import Evidence, Images, Run, Splits


@dataclass(frozen=True)
class Relabel:
    """Clean and triggered cross-entropy, with equal weights."""

    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=100, rate=1e-3, patience=10, freeze_norm=True))

    def __call__(
        self,
        model: Classifier,
        suspect: Classifier,  # noqa: ARG002
        splits: Splits,
        evidence: Evidence,
        run: Run,
    ) -> Mapping[str, Any]:
        if evidence.status != "backdoored" or not evidence.triggers:
            return {"epochs": 0, "stopped_because": "no backdoor was found, so there is nothing to relearn"}
        watched = attacked(evidence.triggers, splits.choose).images

        def loss(model: Classifier, batch: Images) -> Tensor:
            triggered = shared_out(evidence.triggers, batch)
            clean = cross_entropy(model, batch)
            return clean + cross_entropy(model, triggered) if len(triggered) else clean

        def validate(model: Classifier) -> float:
            return -clean_loss(model, splits.choose) - (clean_loss(model, watched) if len(watched) else 0.0)

        return fit(model, splits.tune, loss, self.schedule, run, name="relabelling", validate=validate)
