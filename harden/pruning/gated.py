"""The default search for guilty filters: a cheap guess at what each cut is worth, then a look at the best few.

    L_u, L_c    cross-entropy with true labels, on triggered and on clean images
    guess_i   = dL_u/dm_i - w max(-dL_c/dm_i, 0)     first-order worth of closing filter i   (scoring/gate.py)
    J         = L_u + w L_c                          what a cut is really worth is how far J falls

Each round evaluates the `candidates` best guesses with the filter closed, and closes the one with the lowest J, if J
falls by `least` of itself and what is said of clean images holds. When no cut pays any more, what is still
strangely easy in the network as it is now is looked for, and the rounds go on with that as well. A score without the
clean term cuts the stem first; a guess that nobody checks is wrong as often as right.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F

from harden.network import Classifier, Unit, as_logits, close, closed, predict
from harden.pruning.greedy import Lookout, openings
from harden.pruning.guard import Standing, standing
from harden.pruning.likeness import Likeness
from harden.pruning.spare import Spare
from harden.repair.teacher import Teacher
from harden.scoring.folded import folded
from harden.scoring.gate import Gate
from harden.scoring.gradient import Scores, batch_for
from harden.triggers.again import Again
from harden.triggers.attacked import attacked
from harden.types import Evidence, Filter, Images, Proposal, Round, Run, Splits, Trigger


@dataclass(frozen=True)
class GateSearch:
    """One filter a round, by what closing it is seen to gain."""

    scorer: Gate = field(default_factory=Gate)
    candidates: int = 8
    """Best guesses that are tried in each round."""
    images: int = 192
    """Clean images that a round is judged on."""
    least: float = 0.05
    """Share of J that a cut has to win."""
    max_accuracy_drop: float = 0.015
    """Absolute, on the split made for choosing, of all cuts together."""
    apart: float = 0.04
    """How far all cuts together may move what is said of mixed images from what is believed of them, in nats (see
    likeness). Cuts that bring it nearer set what later ones are held against."""
    doubt: bool = True
    """Whether the suspect's word is doubted where a backdoor may speak (repair/teacher)."""
    max_rounds: int = 8
    again: Again = field(default_factory=lambda: Again(steps=60))
    """How what is left is looked for, once no cut pays any more."""
    strange: float = 1.5
    """How many times smaller than usual it has to be to go on."""
    searches: int = 3
    """How many times it is looked for; 0: never."""
    spare: Spare | None = field(default_factory=Spare)
    """What else may go, since clean images do not need it."""

    def __call__(self, model: Classifier, splits: Splits, evidence: Evidence, run: Run) -> Proposal:
        if evidence.status != "backdoored" or not evidence.triggers:
            return Proposal((), stopped_because="no backdoor was found, so there is nothing to remove")
        generator = torch.Generator().manual_seed(run.seed)
        clean = splits.tune.take(torch.randperm(len(splits.tune), generator=generator)[: self.images])
        copy, parts = folded(model, splits.tune)
        alive = openings(copy, parts)
        triggers = list(evidence.triggers)
        lookout = Lookout(splits.choose, attacked(triggers, splits.choose))
        teacher = Teacher(model, splits.tune, evidence.triggers, self.doubt)
        likeness = Likeness(copy, splits.tune, run.seed, teacher=teacher)
        first, start = lookout(copy), standing(copy, splits.choose)
        nearest = likeness.apart(copy)
        rounds: list[Round] = []
        because = f"{self.max_rounds} rounds done"
        with run.progress.task("looking for guilty filters", self.max_rounds) as task:
            while len(rounds) < self.max_rounds:
                if time.monotonic() > run.deadline:
                    because = "the time budget is spent"
                    break
                twins = attacked(triggers, clean).images
                twins = twins.take(torch.randperm(len(twins), generator=generator)[: self.images])
                number = len(rounds) + 1
                make = partial(self._cut, copy, parts, alive, clean, twins, start, lookout, likeness, nearest, number)
                seen = run.step(f"round {number}", make)
                if seen is None:
                    because = f"no cut wins {self.least:.0%} of the loss and keeps the accuracy"
                    if len(triggers) > self.searches * len(evidence.triggers):
                        break
                    look = partial(self._left, copy, splits.tune, evidence, generator)
                    left = run.step("what is left", look, generator)
                    if not left:
                        break
                    triggers += left
                    lookout = Lookout(splits.choose, attacked(triggers, splits.choose))
                    continue
                close(parts, seen.closed)
                for layer, index in seen.closed:
                    alive[layer][index] = False
                nearest = min(nearest, likeness.apart(copy))
                rounds.append(seen)
                task.advance(1, f"{seen.closed[0]}, accuracy {seen.accuracy}, attack success {seen.attack_success}")
        guilty = tuple(f for r in rounds for f in r.closed)
        late = time.monotonic() > run.deadline
        spare = self.spare(model, splits, guilty, run) if self.spare is not None and not late else ()
        return Proposal(guilty, (first, *rounds), because, spare=spare)

    def _left(self, model: Classifier, images: Images, evidence: Evidence, generator: torch.Generator) -> list[Trigger]:
        """What is still strangely easy in the network as it is now."""
        found = self.again(model, images, evidence.triggers, generator)
        return [t for t in found if self.strange * t.settings["size"] <= t.settings["usual"]]

    def _cut(
        self,
        model: Classifier,
        parts: dict[str, Unit],
        alive: Mapping[str, torch.Tensor],
        clean: Images,
        twins: Images,
        start: Standing,
        lookout: Lookout,
        likeness: Likeness,
        nearest: float,
        number: int,
    ) -> Round | None:
        """The best cut of this round; None if none is worth it."""
        now = self._worth(model, clean, twins)
        guesses = top(self.scorer(model, parts, clean, twins), alive, self.candidates)
        for worth, filter in sorted((self._try(model, parts, f, clean, twins), f) for f in guesses):
            if not worth < (1 - self.least) * now:
                return None
            with closed(parts, [filter]):
                lost = start.lost(standing(model, lookout.clean))
                if lost <= self.max_accuracy_drop and likeness.apart(model) - nearest <= self.apart:
                    return lookout(model, number, (filter,), now - worth)
        return None

    def _worth(self, model: Classifier, clean: Images, twins: Images) -> float:
        """J."""
        return _loss(model, twins) + self.scorer.weight * _loss(model, clean)

    def _try(self, model: Classifier, parts: dict[str, Unit], filter: Filter, clean: Images, twins: Images) -> float:
        with closed(parts, [filter]):
            return self._worth(model, clean, twins)


def top(scores: Scores, alive: Mapping[str, torch.Tensor], count: int) -> list[Filter]:
    """The highest scores among open filters; the last open one of a layer stays."""
    found = [
        (float(score[i]), Filter(layer, i))
        for layer, score in scores.items()
        if int(alive[layer].sum()) > 1
        for i in alive[layer].nonzero().flatten().tolist()
    ]
    return [f for _, f in sorted(found, key=lambda pair: (-pair[0], pair[1]))[:count]]


def _loss(model: Classifier, images: Images) -> float:
    return float(F.cross_entropy(as_logits(predict(model, images, batch_for(model.contract))), images.labels))
