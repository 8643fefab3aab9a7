"""How much easier than usual an aim is to reach in one family of changes, and what others say of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harden.triggers.families import Change, Family, Veil
from harden.triggers.inversion import Aim, FromClass, Inversion, ToNext
from harden.triggers.put import as_trigger
from harden.types import ClassEvidence, Contract, Trigger


@dataclass(frozen=True, eq=False)
class Strange:
    """One aim in one family, against what is usual there."""

    family: Family
    aim: Aim
    score: float
    """How many times smaller than usual, as far as the family is trusted."""
    size: float
    counts: bool
    """Only a change that was seen to succeed is evidence."""
    change: Change

    @property
    def times(self) -> float:
        """The same for a family that is trusted."""
        return self.score / self.family.trust

    @property
    def usual(self) -> float:
        """The size that is usual."""
        return self.times * self.size

    def told(self, threshold: float) -> ClassEvidence:
        """For a report. What was never seen to succeed is not known to be easier than usual."""
        label = -1 if self.aim.label is None else self.aim.label
        score = self.score if self.counts else min(self.score, self.family.trust)
        of = f" from class {self.aim.source}" if isinstance(self.aim, FromClass) else ""
        return ClassEvidence(label, score, threshold, self.family.name + of)

    def trigger(self, change: Change) -> Trigger:
        """A change for this aim, with what is known of its size."""
        return as_trigger(self.family, self.aim, change, {"size": self.size, "usual": self.usual})


@dataclass(frozen=True)
class Named:
    """A class that another kind of evidence points at."""

    by: ClassEvidence
    guilty: tuple[Strange, ...]
    """What sends images there, if anything does."""


@dataclass(frozen=True)
class Opinion:
    """What became of a change when the filters were closed that seem to serve it."""

    closed: int
    """Filters."""
    follow: float
    """Share of the images that still follow."""


def strangeness(family: Family, searches: Mapping[Aim, Inversion]) -> dict[Aim, float]:
    """How many times smaller than the usual one each change is, as far as the family is trusted."""
    apart = family.apart if isinstance(family, Veil) else math.inf
    usually = {aim: min(usual(searches, aim), apart * easiest(searches, aim)) for aim in searches}
    return {aim: family.trust * usually[aim] / search.size() for aim, search in searches.items()}


def easiest(searches: Mapping[Aim, Inversion], aim: Aim) -> float:
    """The least of the others that was seen to succeed."""
    return min((s.size() for other, s in searches.items() if other != aim and s.kept), default=math.inf)


def usual(searches: Mapping[Aim, Inversion], aim: Aim) -> float:
    """The median of the others: the lower one of two, so as not to make much of little.

    A search that never succeeded knows only how large its tries were, which may be far too large. Where the median is
    such a one and smaller ones did succeed, what is usual lies between it and the largest of these.
    """
    others = sorted((s for other, s in searches.items() if other != aim), key=lambda s: s.size())
    if not others:
        return searches[aim].size()
    median = others[(len(others) - 1) // 2]
    known = [s for s in others if s.kept]
    if median.kept or not known:
        return median.size()
    return min(median.size(), math.sqrt(median.size() * known[-1].size()))


def called(aim: Aim, contract: Contract) -> str:
    """The aim in words; a class by its bare name."""
    if isinstance(aim, ToNext):
        return "each class as the next" if aim.by == 1 else f"each class as the one {aim.by} further"
    if isinstance(aim, FromClass):
        return f"{contract.classes[aim.label]} from {contract.classes[aim.source]}"
    return contract.classes[aim.label] if aim.label is not None else "any class"
