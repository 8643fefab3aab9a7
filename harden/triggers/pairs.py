"""Is one class strangely easily taken for one other, and the other not for it? Triggers that work on one class (TaCT).

    lean[a, t]    mean over clean images of class a of f_t - f_a, less what is usual of a and of t
    one_way       lean[a, t] - lean[t, a], in multiples of its median over all pairs, whichever way they lean
    first         the pairs for which that is largest
    size[a, t]    the least change that sends images of class a to t                                (inversion.py)
    score[a, t]   trust * min(median size[a, .], median size[., t], size[t, a]) / size[a, t]
    trust         1 for a pair that leans `far`, less for the others

What resembles one another is easily taken for one another both ways: a dog for a cat, and a cat for a dog. An attacker
who teaches a trigger on one class makes one way easy and not the other; and on clean images, too, that class then leans
the one way, which costs one forward pass to see. Harmless networks show the one or the other as well, where a detail
more makes one sign of another, but hardly both for one pair. So all pairs are asked how they lean, few are searched,
and what does not lean far has to be twice as easy to be called strange.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor

from harden.network import Classifier, as_logits, predict
from harden.spread import spread
from harden.triggers.families import Family, Patch
from harden.triggers.inversion import FromClass, Inversion, Search, begin, go_on
from harden.triggers.strange import Strange, called
from harden.types import Images, Run, Task

SWEEPS = 10
"""Of the median polish."""


@dataclass(frozen=True)
class OneClass:
    """The least patch for each of the pairs that lean one way."""

    family: Patch = field(default_factory=Patch)
    search: Search = field(default_factory=lambda: Search(batch=10))
    pairs: int = 12
    """That lean furthest."""
    far: float = 5.0
    """How many times as far as usual a pair leans that is trusted."""
    trust: float = 0.45
    """How far the others are: harmless ones were up to 3.7 times as easy as usual."""
    steps: int = 74
    easier: float = 1.6
    """How many times as easy as the way back a pair has to be, as far as it is trusted, to be compared with others."""
    others: int = 4
    """Pairs of the same class, and as many to the same target, that it is then compared with."""
    fewest: int = 5
    """Classes, of which one can say what is usual."""
    enough: int = 20
    """Images of a class: from 14, one harmless network in ten had a pair that leant far and was twice as easy as usual,
    and from seven, three.
    """

    def __call__(self, model: Classifier, images: Images, run: Run) -> tuple[list[Strange], str]:
        """What each of these pairs comes to; and what is lacking, if nothing was looked for.

        The model asks for no gradients.
        """
        right = images.take((predict(model, images).argmax(1) == images.labels).nonzero().flatten())
        labels, counts = right.labels.unique(return_counts=True)
        present = labels[counts >= self.enough].tolist()
        if len(present) < self.fewest:
            return [], f"at least {self.fewest} classes with {self.enough} images to search with, named rightly"
        lean, images = one_way(model, images), right
        pairs = [FromClass(a, t) for a in present for t in present if lean[a, t] > 0]
        first = sorted(pairs, key=lambda p: -float(lean[p.source, p.label]))[: self.pairs]
        wary = replace(self.family, trust=self.trust)
        families = {p: self.family if lean[p.source, p.label] >= self.far else wary for p in first}
        most = len(first) * (2 + 2 * self.others)
        with run.progress.task("looking for triggers of one class alone", most * self.steps) as task:
            found = self._searched([*first, *map(back, first)], model, images, run, task)
            near = {p: self._others(p, present) for p in first if self._easier(p, families[p], found)}
            compared = [other for others in near.values() for some in others for other in some]
            found |= self._searched([p for p in dict.fromkeys(compared) if p not in found], model, images, run, task)
            task.advance((most - len(found)) * self.steps, "nothing more to compare with")
        return [self._strange(p, families[p], found, near.get(p, ())) for p in first], ""

    def _searched(
        self, pairs: Iterable[FromClass], model: Classifier, images: Images, run: Run, task: Task
    ) -> dict[FromClass, Inversion]:
        """The least change found for each."""
        searches = {
            p: begin(model, self.family, p, images, self.search, torch.Generator().manual_seed(run.seed)) for p in pairs
        }
        jobs = [
            partial(go_on, s, self.steps, run.deadline, f"{self.family.name}, {called(p, model.contract)}", True)
            for p, s in searches.items()
        ]
        spread(model, jobs, task)
        return searches

    def _easier(self, pair: FromClass, family: Family, found: Mapping[FromClass, Inversion]) -> bool:
        """Than the way back."""
        there, way_back = found[pair], found[back(pair)]
        return bool(there.kept) and family.trust * way_back.size() >= self.easier * there.size()

    def _others(self, pair: FromClass, present: Sequence[int]) -> tuple[list[FromClass], list[FromClass]]:
        """Pairs of the same class and pairs to the same target, from all over the classes."""
        rest = [k for k in present if k not in (pair.source, pair.label)]
        some = [rest[i * len(rest) // self.others] for i in range(min(self.others, len(rest)))]
        return [FromClass(pair.source, k) for k in some], [FromClass(k, pair.label) for k in some]

    def _strange(
        self,
        pair: FromClass,
        family: Family,
        found: Mapping[FromClass, Inversion],
        others: Iterable[Sequence[FromClass]],
    ) -> Strange:
        """How many times as easy as usual it is: as the hardest to beat of what it was compared with."""
        search = found[pair]
        least = min([found[back(pair)].size(), *(median(found[p].size() for p in some) for some in others)])
        score = family.trust * least / search.size()
        return Strange(family, pair, score, search.size(), bool(search.kept), search.result())


def back(pair: FromClass) -> FromClass:
    """The other way round."""
    return FromClass(pair.label, pair.source)


def one_way(model: Classifier, images: Images) -> Tensor:
    """How much further images of each class lean to each other than the other to it, as multiples of what is usual."""
    lean = leaning(model, images)
    further = lean - lean.T
    return further / further[~further.isnan()].abs().median().clamp_min(1e-9)


def leaning(model: Classifier, images: Images) -> Tensor:
    """How far images of each class lean to each other, less what is usual of the two: (classes, classes)."""
    with torch.no_grad():
        logits = as_logits(predict(model, images)).cpu().double()
    labels = images.labels.cpu()
    present = labels.unique()
    away = logits - logits.gather(1, labels[:, None])
    lean = torch.full((logits.shape[1],) * 2, torch.nan, dtype=logits.dtype)
    for k in present.tolist():
        lean[k] = away[labels == k].mean(0)
        lean[k, k] = torch.nan
    for _ in range(SWEEPS):
        lean = lean - lean.nanmedian(0, keepdim=True).values
        lean = lean - lean.nanmedian(1, keepdim=True).values
    return lean
