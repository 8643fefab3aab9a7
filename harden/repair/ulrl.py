"""ULRL: unlearn, locate, relearn (2405.14781).

d_c = sum_j |W_u[c, j] - W_0[c, j]|        how far row c of the classifier moved while clean images were forgotten
z_c = |d_c - median| / (1.4826 * MAD)      S = the (at most two) rows of largest d_c with z_c > 3.5, d_c > median
relearn: rows S from U(-sqrt(2/d), sqrt(2/d)), then  min CE + alpha * sum_{c in S} cos(W[c], W_0[c])
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harden.head import NO_HEAD, head
from harden.network import Classifier
from harden.repair.augment import Augment, published
from harden.repair.losses import accuracy, cross_entropy
from harden.repair.train import Schedule, fit, or_as_it_was
from harden.repair.unlearn import Unlearn
from harden.types import ClassEvidence, Evidence, Images, Run, Splits


@dataclass(frozen=True)
class RowShift:
    """Suspects the classes whose rows move most during clean unlearning.

    The published code keeps the two suspicious rows of lowest index; here it is the two of largest change.
    """

    unlearn: Unlearn = field(default_factory=Unlearn)
    threshold: float = 3.5
    most: int = 2

    def __call__(self, model: Classifier, splits: Splits, run: Run) -> Evidence:
        before = head(model)
        if before is None:
            return Evidence("inconclusive", (), (), (), NO_HEAD)
        forgetful, record = self.unlearn(model, splits.tune, run)
        after = head(forgetful)
        assert after is not None
        d = (after.weight - before.weight).detach().abs().sum(1)
        spread = 1.4826 * (d - d.median()).abs().median()
        z = (d - d.median()).abs() / spread.clamp_min(1e-4 * d.median()).clamp_min(1e-12)  # rounding is no outlier
        strange = [c for c in d.argsort(descending=True).tolist() if z[c] > self.threshold and d[c] > d.median()]
        evidence = tuple(
            ClassEvidence(c, float(z[c]) if d[c] > d.median() else 0.0, self.threshold, "row-shift")
            for c in range(len(d))
        )
        why = f"clean unlearning: {record['stopped_because']}, accuracy {record['accuracy']:.2f}"
        targets = tuple(strange[: self.most])
        return Evidence("backdoored" if targets else "inconclusive", targets, evidence, (), why)


@dataclass(frozen=True)
class RelearnRows:
    """Draws the suspicious rows anew and keeps them away from what they were; no suspects: plain fine-tuning."""

    schedule: Schedule = field(
        default_factory=lambda: Schedule(epochs=20, least_steps=80, batch=128, rate=math.nan, shape="cosine")
    )
    """A rate of NaN: as published, 0.005 for ten classes or fewer and 0.001 for more."""
    alpha: float = math.nan
    """Weight of the cosine; NaN: as published, 0.7 for ten classes or fewer and 0.001 for more."""
    augment: bool = True
    """Random crops and mirror images, as far as the suspect takes them."""
    regain: float = 0.5
    """Share of the images of suspicious classes that were right, on the split for choosing, to be right again."""
    tries: int = 3
    """If they are not, it starts again with a tenth of alpha: the cosine can outweigh all that is to be relearned."""

    def __call__(
        self,
        model: Classifier,
        suspect: Classifier,
        splits: Splits,
        evidence: Evidence,
        run: Run,
    ) -> Mapping[str, Any]:
        last = head(model)
        if last is None:
            return {"refused": NO_HEAD}
        few = model.contract.num_classes <= 10
        alpha = (0.7 if few else 0.001) if math.isnan(self.alpha) else self.alpha
        rate = (0.005 if few else 0.001) if math.isnan(self.schedule.rate) else self.schedule.rate
        rows = list(evidence.target_classes)
        suspicious = torch.isin(splits.choose.labels, torch.tensor(rows, device=splits.choose.labels.device))
        theirs = splits.choose.take(suspicious.nonzero().flatten())
        before, right = deepcopy(model.state_dict()), accuracy(model, theirs).hits
        old = last.weight.detach()[rows].clone()
        augment = published(suspect, splits.tune, run.seed) if self.augment else None
        for attempt in range(self.tries):
            alpha = alpha / 10 if attempt else alpha
            model.load_state_dict(before)
            redraw_rows(last, rows, run.seed)
            record = self._relearn(model, last, rows, old, alpha, rate, splits.tune, augment, run)
            if "finite" in record["stopped_because"] or accuracy(model, theirs).hits >= self.regain * right:
                break
        note = "" if rows else "no suspicious row: plain fine-tuning"
        return {**or_as_it_was(model, before, record), "rows": rows, "alpha": alpha, "note": note}

    def _relearn(
        self,
        model: Classifier,
        last: nn.Linear,
        rows: list[int],
        old: Tensor,
        alpha: float,
        rate: float,
        images: Images,
        augment: Augment | None,
        run: Run,
    ) -> dict[str, Any]:
        def loss(model: Classifier, batch: Images) -> Tensor:
            return cross_entropy(model, batch) + alpha * F.cosine_similarity(last.weight[rows], old).sum()

        schedule = replace(self.schedule, rate=rate)
        return fit(model, images, loss, schedule, run, name="relearning", augment=augment)


@torch.no_grad()
def redraw_rows(layer: nn.Linear, rows: list[int], seed: int) -> None:
    """New weights from U(-sqrt(2/d), sqrt(2/d)) and no bias."""
    bound = math.sqrt(2 / layer.in_features)
    fresh = torch.rand(len(rows), layer.in_features, generator=torch.Generator().manual_seed(seed))
    layer.weight[rows] = ((2 * fresh - 1) * bound).to(layer.weight)
    if layer.bias is not None:
        layer.bias[rows] = 0
