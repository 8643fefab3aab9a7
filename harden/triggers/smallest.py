"""The recoverer of the default method: which class can be reached by a strangely small change, and by which?

    size[f, k]      the least change of family f that sends the images to class k      (inversion.py)
    strange[f, k]   median of size[f, .] over the other classes that got as many steps  /  size[f, k]
    verdict         backdoored where the largest is over `strange`, clean where it is under `usual`, else inconclusive

Which classes are searched is told by how little their features would have to move (displacement.py). All of those
get a few steps; only the easiest go on, and they are compared with one another, since what is searched for longer
comes out smaller: the easiest of the usual classes stand for what is usual.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harden.network import Classifier
from harden.scoring.folded import folded
from harden.triggers.displacement import displacements
from harden.triggers.families import Additive, Change, Family, Patch, Spectral, Tone, Warp
from harden.triggers.inversion import Inversion, Search, ToClass, begin
from harden.types import ClassEvidence, Evidence, Images, Run, Splits, Status, Task, Trigger


def default_families() -> tuple[Family, ...]:
    return (Patch(), Additive(), Spectral(), Warp(), Tone())


@dataclass(frozen=True)
class SmallestChange:
    """Every promising class against every family; cheap looks first."""

    families: tuple[Family, ...] = field(default_factory=default_families)
    search: Search = field(default_factory=Search)
    classes: int = 10
    """Most classes to search; more than these are passed over by their features' displacement."""
    glance: int = 20
    """Steps that every class gets."""
    look: int = 54
    """Further steps for the strangest classes."""
    looked: int = 3
    """How many classes that is, in each family; the two whose features are easiest to move always belong to them."""
    strange: float = 2.2
    """A class this many times easier to reach than the usual one is called the target of a backdoor."""
    usual: float = 1.7
    """Under this, nothing is called strange."""
    copies: int = 2
    """Stand-ins of each kind that is strange, from different starts."""
    fewest: int = 20
    """Images that are needed to say anything at all."""

    def __call__(self, model: Classifier, splits: Splits, run: Run) -> Evidence:
        if len(splits.tune) < self.fewest:
            why = f"{len(splits.tune)} images to search with; at least {self.fewest} are needed"
            return Evidence("inconclusive", (), (), (), why)
        images = splits.tune
        copy = searchable(model, images)
        labels = self._classes(copy, images)
        found: list[Strange] = []
        total = len(self.families) * (len(labels) * self.glance + (self.looked + 1) * self.look)
        with run.progress.task("looking for strangely small changes", total) as task:
            for number, family in enumerate(self.families):
                found += self._compare(copy, family, labels, images, run.seed + number, run.deadline, task)
        return self._judge(copy, images, found, run)

    def _classes(self, model: Classifier, images: Images) -> list[int]:
        """The classes to search: those whose features are easiest to move, and some from the other end to compare."""
        moved = displacements(model, images)
        count = model.contract.num_classes
        order = list(range(count)) if moved is None else [int(k) for k in moved.argsort()]
        if count <= self.classes:
            return order
        usual = self.classes // 2
        rest = order[self.classes - usual :]
        picked = [rest[round(i * (len(rest) - 1) / max(1, usual - 1))] for i in range(usual)]
        return order[: self.classes - usual] + picked

    def _compare(
        self,
        model: Classifier,
        family: Family,
        labels: Sequence[int],
        images: Images,
        seed: int,
        deadline: float,
        task: Task,
    ) -> list[Strange]:
        """How small a change of this family reaches each class, against the usual class."""
        searches: dict[int, Inversion] = {}
        for k in labels:
            generator = torch.Generator().manual_seed(seed)  # the same start for every class
            searches[k] = begin(model, family, ToClass(k), images, self.search, generator)
            if len(searches[k].images) and time.monotonic() < deadline:
                searches[k].run(self.glance)
            task.advance(self.glance, f"{family.name}, class {model.contract.classes[k]}")
        promising = sorted(labels, key=lambda k: (_promise(searches[k]), labels.index(k)))[: self.looked]
        promising += [k for k in labels[:2] if k not in promising]
        for k in promising:
            if len(searches[k].images) and time.monotonic() < deadline:
                searches[k].run(self.look)
            task.advance(self.look, f"{family.name}, class {model.contract.classes[k]} again")
        sizes = {k: search.size() for k, search in searches.items()}
        return [Strange(family, k, _usual(sizes, promising, k) / sizes[k], searches[k]) for k in promising]

    def _judge(self, model: Classifier, images: Images, found: Sequence[Strange], run: Run) -> Evidence:
        evidence = tuple(ClassEvidence(s.label, s.score, self.strange, s.family.name) for s in found)
        guilty = [s for s in found if s.counts and s.score >= self.strange]
        highest = max((s.score for s in found if s.counts), default=0.0)
        status: Status = "backdoored" if guilty else "inconclusive" if highest > self.usual else "clean"
        targets = tuple(dict.fromkeys(s.label for s in sorted(guilty, key=lambda s: -s.score)))
        triggers = [
            as_trigger(s.family, s.label, change, {"size": s.search.size(), "usual": s.score * s.search.size()})
            for s in guilty
            for change in self._stand_ins(model, s, images, run)
        ]
        names = ", ".join(f"{model.contract.classes[s.label]} ({s.family.name}, {s.score:.1f} times)" for s in guilty)
        why = (
            f"strangely easy to reach: {names}"
            if guilty
            else f"no class is easier to reach than {highest:.1f} times the usual (threshold {self.strange})"
        )
        return Evidence(status, targets, evidence, tuple(triggers), why)

    def _stand_ins(self, model: Classifier, strange: Strange, images: Images, run: Run) -> list[Change]:
        changes = [strange.search.result()]
        for copy in range(1, self.copies):
            if time.monotonic() < run.deadline:
                generator = torch.Generator().manual_seed(run.seed + 1000 * copy)
                again = begin(model, strange.family, ToClass(strange.label), images, self.search, generator)
                again.run(self.glance + self.look)
                changes.append(again.result())
        return changes


@dataclass(frozen=True, eq=False)
class Strange:
    """One class in one family, against what is usual there."""

    family: Family
    label: int
    score: float
    """How many times smaller than usual."""
    search: Inversion

    @property
    def counts(self) -> bool:
        """Only a change that was seen to succeed is evidence."""
        return bool(self.search.kept)


def _usual(sizes: Mapping[int, float], compared: Sequence[int], label: int) -> float:
    """The median of the others: the lower one of two, so as not to make much of little."""
    others = [sizes[k] for k in compared if k != label]
    return float(torch.tensor(others).median()) if others else sizes[label]


def _promise(search: Inversion) -> float:
    """Small changes that succeeded first, by size; then the others, by how many images follow."""
    return search.best if search.kept else 1e6 * (2 - search.reached)


def searchable(model: Classifier, images: Images) -> Classifier:
    """A folded copy that asks for no gradients of its own."""
    copy, _ = folded(model, images)
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    return copy


def as_trigger(family: Family, label: int, change: Change, settings: dict[str, float]) -> Trigger:
    """A change as a trigger that every stage can put on images."""

    @torch.no_grad()
    def apply(images: Images) -> Images:
        return Images(put(change, images.pixels), images.labels, images.names)

    return Trigger(f"{family.name} to class {label}", "recovered", label, apply, {"family": family.name, **settings})


def put(change: Change, pixels: Tensor, batch: int = 256) -> Tensor:
    """The changed images, batch by batch."""
    return torch.cat([change(part) for part in pixels.split(batch)]) if len(pixels) else pixels
