"""Grad-Prune's search: close the one filter with the highest score, look, and do it again.

    A0, A     clean accuracy on the split made for choosing, before and now
    L_u       unlearning loss CE(f(x~), y) on its triggered twins
    repeat    close the highest of all open filters, scored on the split made for tuning
    until     A0 - A >= max_accuracy_drop, or L_u has had no new minimum for `patience` rounds
    return    the filters that were closed at the lowest L_u whose accuracy still held

What makes a round cheap: it works in one folded copy (see scoring.folded), where closing a filter zeroes two rows;
its gradients are those of the convolutions' weights alone; accuracy, losses and attack success come from the same
passes; and the best network is remembered as a number of rounds, for no weights are needed to go back to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.head import head
from harden.network import Classifier, Unit, as_logits, close, closed, predict
from harden.scoring.folded import folded
from harden.scoring.gradient import Scores, UnlearningGradient, batch_for
from harden.triggers.attacked import Attacked, attacked
from harden.types import Evidence, Filter, Images, Proposal, Rate, Round, Run, Splits

Scorer = Callable[[Classifier, Mapping[str, Unit], Images, Images], Scores]
"""Model, units, clean images, triggered images -> one number for each filter: the higher, the guiltier."""


@dataclass(frozen=True)
class Greedy:
    """One filter a round, by the score."""

    scorer: Scorer = field(default_factory=UnlearningGradient)
    max_accuracy_drop: float = 0.10
    """Absolute, on the split made for choosing."""
    patience: int = 10
    """Rounds without a new minimum of the unlearning loss."""
    max_rounds: int | None = None

    def __call__(self, model: Classifier, splits: Splits, evidence: Evidence, run: Run) -> Proposal:
        if evidence.status != "backdoored" or not evidence.triggers:
            return Proposal((), stopped_because="no backdoor was found, so there is nothing to unlearn")
        tune = attacked(evidence.triggers, splits.tune).images
        lookout = Lookout(splits.choose, attacked(evidence.triggers, splits.choose))
        if not len(tune) or not len(lookout.attacked.images):
            return Proposal((), stopped_because="the trigger could be put on none of the images")
        copy, parts = folded(model, splits.tune)
        alive = openings(copy, parts)
        start = lookout(copy)
        rounds: list[Round] = []
        lowest, best = start.unlearning_loss, 0
        with run.progress.task("looking for guilty filters", self.max_rounds) as task:
            while not (because := self._reason_to_stop(start, rounds, best, run)):
                number = len(rounds) + 1
                make = partial(self._round, copy, parts, alive, splits.tune, tune, lookout, number)
                now = run.step(f"round {number}", make)
                if now is None:
                    because = "no open filter has a score"
                    break
                (chosen,) = now.closed
                close(parts, [chosen])
                alive[chosen.layer][chosen.index] = False
                rounds.append(now)
                if now.unlearning_loss < lowest and not self._fell(start, now):
                    lowest, best = now.unlearning_loss, now.number
                task.advance(1, f"{chosen}, accuracy {now.accuracy}, attack success {now.attack_success}")
        return Proposal(tuple(f for r in rounds[:best] for f in r.closed), (start, *rounds), because)

    def _round(
        self,
        model: Classifier,
        parts: dict[str, Unit],
        alive: Mapping[str, Tensor],
        clean: Images,
        triggered: Images,
        lookout: Lookout,
        number: int,
    ) -> Round | None:
        """The filter with the highest score, and how things are with it closed; None where no open one has a score."""
        found = highest(self.scorer(model, parts, clean, triggered), alive)
        if found is None:
            return None
        chosen, score = found
        with closed(parts, [chosen]):
            return lookout(model, number, (chosen,), score)

    def _fell(self, start: Round, now: Round) -> bool:
        """By at least the accuracy drop that is allowed, in images, since shares are not exact."""
        return start.accuracy.hits - now.accuracy.hits >= self.max_accuracy_drop * start.accuracy.total

    def _reason_to_stop(self, start: Round, rounds: list[Round], best: int, run: Run) -> str:
        if rounds and self._fell(start, rounds[-1]):
            return f"accuracy fell from {start.accuracy} to {rounds[-1].accuracy}"
        if len(rounds) - best >= self.patience:
            return f"no lower unlearning loss for {self.patience} rounds"
        if self.max_rounds is not None and len(rounds) >= self.max_rounds:
            return f"{self.max_rounds} rounds done"
        return "the time budget is spent" if time.monotonic() > run.deadline else ""


class Lookout:
    """What the images for choosing say about a network."""

    def __init__(self, clean: Images, attacked: Attacked) -> None:
        self.clean, self.attacked = clean, attacked

    def __call__(
        self, model: Classifier, number: int = 0, closed: tuple[Filter, ...] = (), score: float = 0.0
    ) -> Round:
        batch = batch_for(model.contract)
        clean = as_logits(predict(model, self.clean, batch))
        triggered = as_logits(predict(model, self.attacked.images, batch))
        right = int((clean.argmax(1) == self.clean.labels).sum())
        return Round(
            number,
            closed,
            score,
            accuracy=Rate(right, len(self.clean)),
            unlearning_loss=float(F.cross_entropy(triggered, self.attacked.images.labels)),
            clean_loss=float(F.cross_entropy(clean, self.clean.labels)),
            attack_success=self.attacked.success(triggered.argmax(1)),
        )


def highest(scores: Scores, alive: Mapping[str, Tensor]) -> tuple[Filter, float] | None:
    """The highest score among open filters; the last open one of a layer stays, for without it nothing passes."""
    found: tuple[Filter, float] | None = None
    for layer, score in scores.items():
        if int(alive[layer].sum()) > 1:
            best = score.masked_fill(~alive[layer], -torch.inf).max(0)
            if float(best.values) > (found[1] if found else -torch.inf):
                found = Filter(layer, int(best.indices)), float(best.values)
    return found


def openings(model: Classifier, parts: Mapping[str, Unit]) -> dict[str, Tensor]:
    """Which filters can be closed: not those that are closed already, and not logits that a convolution makes."""
    alive = {}
    for name, unit in parts.items():
        rows = [p.detach().abs().flatten(1).sum(1) if p.dim() > 1 else p.detach().abs() for p in unit.parameters()]
        alive[name] = torch.stack(rows).sum(0) > 0
    last = list(parts)[-1]
    if head(model) is None and parts[last].width == model.contract.num_classes:
        alive[last][:] = False
    return alive
