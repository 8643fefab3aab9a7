"""Filters that clean images do not need: room in which a backdoor lives, and time that a device spends on nothing.

    cost_i = 1/2 mean_n (dL_n / dg_ni)^2          what closing filter i would cost   (guard.costs)
    group  = the `align` cheapest open filters of a layer that is free to lose them
    spare  = groups, the cheapest per filter first, while the sum of their costs stays under `most` of the loss, and
             what is said of mixed images where it was   (likeness)

Only convolutions whose channels are theirs alone are asked: out of a residual stream nothing goes unnoticed. The
accuracy guard of the surgery has the last word on each layer.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from harden.network import Classifier, as_logits, close, closed, predict, units
from harden.pruning import guard
from harden.pruning.likeness import Likeness
from harden.pruning.surgery import cuttable
from harden.types import Filter, Run, Splits

ENOUGH = 256  # images to rank filters by


@dataclass(frozen=True)
class Spare:
    """How much may go besides the guilty filters."""

    most: float = 0.02
    """Of the clean loss, in all."""
    layer: float = 0.25
    """Of a layer's filters, at most."""
    align: int = 8
    first: float = 0.1
    """Of the clean loss, for the cheapest group alone: something always goes, if the accuracy guard allows it."""
    apart: float = 0.01
    """How far they may move what is said of mixed images, in nats; if none keeps to that, the one that moves it least
    goes alone.
    """

    def __call__(self, model: Classifier, splits: Splits, guilty: Collection[Filter], run: Run) -> tuple[Filter, ...]:
        """Whole groups of filters; those of the guilty that share a layer with a group count towards it."""
        model = model.copy().eval()
        parts = units(model)
        close(parts, guilty)
        order = torch.randperm(len(splits.tune), generator=torch.Generator().manual_seed(run.seed))
        clean = splits.tune.take(order[:ENOUGH])
        free = [r.layer for r in cuttable(model, clean) if all(len(r.producers(c)) == 1 for c in range(r.width))]
        costs = guard.costs(model, {name: parts[name] for name in free}, clean)
        loss = float(F.cross_entropy(as_logits(predict(model, clean)), clean.labels))
        allowed = self.most * loss
        gone = set(guilty)
        groups: list[tuple[float, list[Filter]]] = []
        for name in free:
            width = parts[name].width
            ranked = sorted(parts[name].filters(), key=lambda f: (f not in gone, float(costs[f.layer][f.index]), f))
            ends = range(width % self.align or self.align, int(self.layer * width) + 1, self.align)
            for start, end in zip([0, *ends], ends, strict=False):
                chosen = ranked[start:end]
                groups.append((float(sum(costs[f.layer][f.index] for f in chosen)), chosen))
        likeness = Likeness(model, splits.tune, run.seed)
        spare: list[Filter] = []
        least: tuple[float, list[Filter]] = math.inf, []
        for cost, group in sorted(groups, key=lambda pair: (pair[0] / len(pair[1]), pair[1])):
            if cost > (allowed if spare else max(allowed, self.first * loss)):
                break
            with closed(parts, [*spare, *group]):
                moved = likeness.apart(model)
            least = min(least, (moved, group))
            if moved <= self.apart:
                allowed -= cost
                spare += [f for f in group if f not in gone]
        return tuple(spare or [f for f in least[1] if f not in gone])
