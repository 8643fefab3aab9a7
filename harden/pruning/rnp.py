"""Reconstructive neuron pruning (RNP, ICML 2023): filters that cannot help to remember what was unlearned.

unlearn   theta_u = argmax CE on clean images, until accuracy is gone
recover   min over 0 <= m <= 1 of CE(f(x; m * theta_u), y), the weights standing still
prune     the filters of the original network with the smallest m
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from harden.network import Classifier, units
from harden.pruning.multipliers import multiplied, ones
from harden.pruning.ranked import largest_harmless, lowest, up_to
from harden.repair.losses import cross_entropy
from harden.repair.train import Schedule, fit
from harden.repair.unlearn import Unlearn
from harden.types import Evidence, Images, Proposal, Run, Splits


@dataclass(frozen=True)
class UnlearnThenRecover:
    """Both parts on copies; without batch norm the mask sits on the convolutions."""

    unlearn: Unlearn = field(default_factory=Unlearn)
    recover: Schedule = field(
        default_factory=lambda: Schedule(epochs=20, least_steps=80, batch=128, rate=0.2, weight_decay=0.0)
    )
    alpha: float = 0.2
    thresholds: tuple[float, ...] = tuple(round(0.02 * k, 2) for k in range(46))
    max_drop: float = 0.1

    def __call__(self, model: Classifier, splits: Splits, evidence: Evidence, run: Run) -> Proposal:  # noqa: ARG002
        forgetful, record = self.unlearn(model, splits.tune, run)
        parts = units(forgetful)
        if not parts:
            return Proposal((), (), "the network has no convolution")
        if "finite" in record["stopped_because"]:
            return Proposal((), (), f"unlearning failed: {record['stopped_because']}")
        mask = ones(parts)

        def loss(h: Classifier, batch: Images) -> Tensor:
            with multiplied(parts, mask):
                return self.alpha * cross_entropy(h, batch)

        def clamp(_: Classifier) -> None:
            with torch.no_grad():
                for m in mask.values():
                    m.clamp_(0, 1)

        fit(
            forgetful,
            splits.tune,
            loss,
            self.recover,
            run,
            name="recovering filters",
            parameters=list(mask.values()),
            after_step=clamp,
        )
        ranked = lowest({k: m.detach() for k, m in mask.items()})
        return largest_harmless(
            model, ranked, up_to(ranked, self.thresholds), splits.choose, run, max_drop=self.max_drop
        )
