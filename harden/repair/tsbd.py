"""Two-stage backdoor defence (TSBD, NeurIPS 2024): weights that clean unlearning changes most are set to zero.

c_i = sum |W_u - W_0| over filter i           the change while clean images were forgotten
the n filters of largest c: their share m of most changed weights becomes 0
then fine-tune along  (1 - a) g1 + a g2,      g1 = grad L(theta),  g2 = grad L(theta + r g1 / |g1|)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harden.network import Classifier, units
from harden.repair.augment import published
from harden.repair.losses import accuracy, cross_entropy
from harden.repair.train import Descend, Schedule, fit, or_as_it_was, plain
from harden.repair.unlearn import Unlearn
from harden.types import GUILTY, Evidence, Filter, Run, Splits


@dataclass(frozen=True)
class ZeroAndTune:
    """How many filters is chosen on the split for choosing: the most that cost at most `max_drop` of accuracy."""

    unlearn: Unlearn = field(
        default_factory=lambda: Unlearn(Schedule(epochs=20, least_steps=200, rate=1e-4, clip=20.0), until=0.1)
    )
    tune: Schedule = field(default_factory=lambda: Schedule(epochs=20, least_steps=80, rate=0.01))
    shares: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
    """Of all filters, tried in this order."""
    weights: float = 0.7
    """m: the share of a chosen filter's weights."""
    max_drop: float = 0.2
    """Before fine-tuning, absolute."""
    radius: float = 0.05
    mix: float = 0.7
    """a."""

    def __call__(
        self,
        model: Classifier,
        suspect: Classifier,
        splits: Splits,
        evidence: Evidence,  # noqa: ARG002
        run: Run,
    ) -> Mapping[str, Any]:
        before = deepcopy(model.state_dict())
        forgetful, unlearned = self.unlearn(model, splits.tune, run)
        parts, moved = units(model), units(forgetful)
        change = {k: (moved[k].conv.weight - parts[k].conv.weight).detach().abs() for k in parts}
        share, guilty = self._zero(model, change, splits)
        record = fit(
            model,
            splits.tune,
            cross_entropy,
            self.tune,
            run,
            name="activeness-aware fine-tuning",
            augment=published(suspect, splits.tune, run.seed),
            descend=mixed(self.radius, self.mix),
        )
        or_as_it_was(model, before, record)
        told = {"share": share, "unlearning": unlearned["stopped_because"], GUILTY: [list(f) for f in guilty]}
        return {**record, **told}

    @torch.no_grad()
    def _zero(
        self, model: Classifier, change: Mapping[str, Tensor], splits: Splits
    ) -> tuple[float, tuple[Filter, ...]]:
        """Sets weights to zero, of the largest share of the filters that accuracy allows: that share, and which."""
        weights = {name: unit.conv.weight for name, unit in units(model).items()}
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        ranked = sorted(
            ((float(row), name, i) for name, c in change.items() for i, row in enumerate(c.flatten(1).sum(1))),
            reverse=True,
        )
        start, chosen, kept = accuracy(model, splits.choose).value, 0.0, before
        for share in self.shares:
            for _, name, i in ranked[: round(share * len(ranked))]:
                flat = change[name][i].flatten()
                most = flat.topk(round(self.weights * len(flat))).indices
                weights[name][i].view(-1)[most] = 0
            if start - accuracy(model, splits.choose).value > self.max_drop:
                break
            chosen, kept = share, {name: weight.detach().clone() for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.copy_(kept[name])
        return chosen, tuple(Filter(name, i) for _, name, i in ranked[: round(chosen * len(ranked))])


def mixed(radius: float, mix: float) -> Descend:
    """The gradient here and the gradient a fixed step up the hill, mixed."""

    def descend(closure: Callable[[], Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
        loss = plain(closure, parameters)
        with torch.no_grad():
            moved = [(p, p.grad) for p in parameters if p.grad is not None]
            norm = torch.stack([g.norm() for _, g in moved]).norm().clamp_min(1e-12)
            before = [p.clone() for p, _ in moved]
            for p, g in moved:
                p.add_(radius * g / norm)
                p.grad = None
        plain(closure, parameters)
        with torch.no_grad():
            for (p, g), value in zip(moved, before, strict=True):
                p.copy_(value)
                p.grad = (1 - mix) * g + (0 if p.grad is None else mix * p.grad)
        return loss

    return descend
