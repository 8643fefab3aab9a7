"""The recoverer of the default method: which class can be reached by a strangely small change, and by which?

    size[f, k]      the least change of family f that sends the images to class k      (inversion.py)
    strange[f, k]   trust[f] * median of size[f, .] over the other classes that got as many steps / size[f, k]
    verdict         backdoored where the largest is over `strange`, or changes of two kinds are over `usual` for one
                    class; where it is only over `nearly`, if a witness of another kind names the same class, if that
                    class can be made far louder than all others (margin.py), or if a second opinion says that a few
                    filters serve the change; clean where they do not or under `usual`, else inconclusive

Which classes are searched is told by how little their features would have to move (displacement.py). All of those
get as many steps as it takes to see who is easy; only the easiest go on, and they are compared with one another, since
what is searched for longer comes out smaller: the easiest of the usual classes stand for what is usual.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from harden.network import Classifier
from harden.spread import Tell, spread
from harden.triggers.displacement import displacements
from harden.triggers.families import Additive, Change, Family, Spectral, default_families
from harden.triggers.inversion import Aim, Inversion, Search, ToClass, ToNext, begin, searchable
from harden.triggers.put import as_trigger
from harden.types import ClassEvidence, Evidence, Images, Recoverer, Run, Splits, Status, Task, Trigger, done

TOLD = 8
"""Steps of a search after which progress is told."""


@dataclass(frozen=True)
class SmallestChange:
    """Every promising class against every family; cheap looks first."""

    families: tuple[Family, ...] = field(default_factory=default_families)
    search: Search = field(default_factory=Search)
    classes: int = 10
    """As many classes are all searched; of more, half of these that look hard to reach, to compare with, and as many
    that look easy, by their features' displacement, with `more` of those beyond.
    """
    more: float = 0.1
    first: int = 10
    """Steps in which to see how easy a class is to reach, in a network whose features cannot be read."""
    glance: int = 47
    """Steps that every class gets: after 20 a patch is still larger than it began, and tells nothing."""
    look: int = 27
    """Further steps for the easiest classes, if one of them begins to look strange; and all of them from another start,
    if it is still hard to say: the smaller change of both counts."""
    hopeless: float = 1.3
    """What a family's strangest class has to reach for further steps."""
    looked: int = 3
    """How many classes that is, in each family; the two whose features are easiest to move always belong to them."""
    compared: int = 4
    """And how many at least, since of two others the easier would stand for what is usual: a target's neighbour."""
    strange: float = 2.3
    """A class this many times easier to reach than the usual one is called the target of a backdoor."""
    beside: float = 0.6
    """A second target has to be this near to the strangest class of all: a target drags its neighbours along."""
    usual: float = 2.0
    """Over this a class is strange enough not to be called usual, unless a second opinion says so; changes of two kinds
    that are over it for one class are as good as one that is strange; and a family that is over it for a target stands
    in for its trigger."""
    witness: Recoverer | None = None
    """Another scan, asked first where something is over `nearly` and nothing over `strange`: it is heard if it points
    at one class, and believed if that is one of those. What makes a family less to be trusted is nothing to it, but
    what is under `easily` for that alone convicts nobody: then it is hard to say."""
    points: tuple[float, float] = (3.5, 2.0)
    """How high that class has to score with the witness, which is what ULRL asks for, and how many times as high as the
    next: harmless networks have such a row too (8 and 15 were seen), so it is the class that has to agree."""
    listener: Listener | None = None
    """Asked next, where nothing is strange: if it points at one class, that is the target, and whatever reaches it
    easily stands in for the trigger; if nothing does, nothing is clean."""
    heard: tuple[float, float] = (4.0, 3.0)
    """How high that class has to score, and how many times as high as the next."""
    easily: float = 1.3
    """What a change has to score to be taken for a trigger, whoever points at its class."""
    second: SecondOpinion | None = None
    """Asked about what is over `nearly`, where nothing is over `strange` and the witness names another class."""
    nearly: float = 1.6
    opinions: int = 3
    """Most changes that it is asked about, the strangest first."""
    follow: float = 0.1
    """Share of images that may still follow, for a change to be called a backdoor's."""
    stay: float = 0.25
    """Share that has to follow, for it to be called natural."""
    shifts: tuple[int, ...] = (1, 2)
    """For all-to-all attacks: how many classes each image is moved on; shifts are compared with one another."""
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
        groups: list[list[Aim]] = [[ToClass(k) for k in self._classes(copy, images, run)]]
        if model.contract.num_classes > max(self.shifts, default=0) and len(self.shifts) > 1:
            groups.append([ToNext(model.contract.num_classes, by) for by in self.shifts])
        found: list[Strange] = []
        total = sum(len(aims) * self.glance + min(len(aims), self.compared) * self.look for aims in groups)
        total *= len(self.families)
        with run.progress.task("looking for strangely small changes", total) as task:
            for number, family in enumerate(self.families):
                for aims in groups:
                    make = partial(self._compare, copy, family, aims, images, run.seed + number, run.deadline, task)
                    found += run.step(f"{family.name}: {', '.join(_called(aim, model) for aim in aims)}", make)
        named = self._named(model, splits, self._near(found, lambda s: s.times, self.nearly), run)
        if named is None or not named.guilty:
            named = self._loudest(copy, images, groups[0], found, run) or named
        asked = {} if named else self._asked(model, splits, self._near(found, lambda s: s.score, self.nearly), run)
        return self._judge(copy, images, found, named, asked, run)

    def searched(self, count: int) -> int:
        """How many of so many classes are searched."""
        return count if count <= self.classes else self.classes + round(self.more * (count - self.classes))

    def _classes(self, model: Classifier, images: Images, run: Run) -> list[int]:
        """The classes to search: those that look easiest to reach, and some from the other end to compare."""
        count = model.contract.num_classes
        moved = displacements(model, images)
        if moved is None and count > self.classes:
            moved = self._first_steps(model, images, run)
        order = list(range(count)) if moved is None else [int(k) for k in moved.argsort()]
        if count <= self.classes:
            return order
        usual = self.classes // 2
        easy = self.searched(count) - usual
        rest = order[easy:]
        return order[:easy] + [rest[round(i * (len(rest) - 1) / max(1, usual - 1))] for i in range(usual)]

    def _first_steps(self, model: Classifier, images: Images, run: Run) -> Tensor:
        """How far each class still is after the first steps of one additive search: (classes,)."""
        count = model.contract.num_classes
        far = torch.full((count,), torch.inf)
        with run.progress.task("looking which classes are easy to reach", count) as task:
            for k in range(count):
                generator = torch.Generator().manual_seed(run.seed)
                search = begin(model, Additive(), ToClass(k), images, self.search, generator)
                if len(search.images) and time.monotonic() < run.deadline:
                    search.run(self.first)
                    far[k] = _promise(search)
                task.advance(1, model.contract.classes[k])
        return far

    def _compare(
        self,
        model: Classifier,
        family: Family,
        aims: Sequence[Aim],
        images: Images,
        seed: int,
        deadline: float,
        task: Task,
    ) -> list[Strange]:
        """How small a change of this family reaches each aim, against the usual aim."""

        def look(some: Mapping[Aim, Inversion], steps: int, how: str = "", counted: bool = True) -> dict[Aim, bool]:
            names = {aim: f"{family.name}, {_called(aim, model)} {how}".strip() for aim in some}
            jobs = [partial(_look, search, steps, deadline, names[aim], counted) for aim, search in some.items()]
            return dict(zip(some, spread(model, jobs, task), strict=True))

        searches = {aim: self._begin(model, family, aim, images, seed) for aim in aims}  # the same start for every aim
        look(searches, self.glance)
        chosen = {aim: searches[aim] for aim in self._promising(aims, searches)}
        if max(_scores(family, chosen).values(), default=math.inf) < self.hopeless:
            task.advance(self.look * len(chosen), f"{family.name} is decided")
        else:
            look(chosen, self.look, "again")
            if self.usual <= max(_scores(family, chosen).values(), default=math.inf) <= 2 * self.strange:
                others = {aim: self._begin(model, family, aim, images, seed + 500) for aim in chosen}
                looked = look(others, self._whole, "from another start", counted=False)
                better = {aim: min(chosen[aim], others[aim], key=lambda s: (not s.kept, s.size())) for aim in chosen}
                chosen = {aim: better[aim] if looked[aim] else chosen[aim] for aim in chosen}
        scores = _scores(family, chosen)
        return [Strange(family, a, scores[a], s.size(), bool(s.kept), s.result()) for a, s in chosen.items()]

    def _promising(self, aims: Sequence[Aim], searches: Mapping[Aim, Inversion]) -> list[Aim]:
        """Those that go on: the easiest so far, the first two, and enough others to compare with."""
        order = sorted(aims, key=lambda a: (_promise(searches[a]), aims.index(a)))
        chosen = order[: self.looked]
        chosen += [a for a in aims[:2] if a not in chosen]
        return chosen + [a for a in order if a not in chosen][: max(0, self.compared - len(chosen))]

    def _near(self, found: Sequence[Strange], score: Callable[[Strange], float], least: float) -> list[Strange]:
        """What scores so much, where nothing is strange; the strangest first."""
        if self._sure(found):
            return []
        return sorted((s for s in found if s.counts and score(s) >= least), key=lambda s: -score(s))

    def _sure(self, found: Sequence[Strange]) -> bool:
        """Whether something is strange."""
        return any(s.counts and s.score >= self.strange for s in found) or bool(self._agreed(found))

    def _agreed(self, found: Sequence[Strange]) -> set[Aim]:
        """What changes of two kinds are over `usual` for. Few waves and few cosines are one kind."""
        kinds: dict[Aim, set[type]] = {}
        for s in found:
            if s.counts and s.score >= self.usual:
                kinds.setdefault(s.aim, set()).add(Spectral if isinstance(s.family, Spectral) else type(s.family))
        return {aim for aim, some in kinds.items() if len(some) > 1}

    def _named(self, model: Classifier, splits: Splits, near: Sequence[Strange], run: Run) -> Named | None:
        """The class that the witness points at, if it is nearly strange."""
        if self.witness is None or not near or time.monotonic() > run.deadline:
            return None
        seen = run.step("a witness of another kind", partial(self.witness, model, splits, replace(run, step=done)))
        pointed = _pointed(seen.evidence, *self.points)
        theirs = [s for s in near if pointed is not None and s.aim.label == pointed.label]
        if pointed is None or not theirs:
            return None
        return Named(pointed, tuple(s for s in theirs if s.score >= self.easily))

    def _loudest(
        self, model: Classifier, images: Images, aims: Sequence[Aim], found: Sequence[Strange], run: Run
    ) -> Named | None:
        """The class that the listener points at, and what reaches it easily."""
        if self.listener is None or self._sure(found) or time.monotonic() > run.deadline:
            return None
        labels = [aim.label for aim in aims if aim.label is not None]
        make = partial(self.listener, model, images, labels, replace(run, step=done))
        pointed = _pointed(run.step("how loud each class can be", make), *self.heard)
        if pointed is None:
            return None
        easy = self._near(found, lambda s: s.score, self.easily)
        return Named(pointed, tuple(s for s in easy if s.aim.label == pointed.label))

    def _asked(self, model: Classifier, splits: Splits, near: Sequence[Strange], run: Run) -> Mapping[Strange, Opinion]:
        """What the second opinion says of what is nearly strange, until it calls one a backdoor's."""
        said: dict[Strange, Opinion] = {}
        if self.second is None:
            return said
        for s in near[: self.opinions]:
            if time.monotonic() < run.deadline:
                make = partial(self.second, model, splits, s.trigger(s.change), replace(run, step=done))
                said[s] = run.step(f"second opinion on {_called(s.aim, model)}, {s.family.name}", make)
                if said[s].follow <= self.follow:
                    break
        return said

    def _judge(
        self,
        model: Classifier,
        images: Images,
        found: Sequence[Strange],
        named: Named | None,
        asked: Mapping[Strange, Opinion],
        run: Run,
    ) -> Evidence:
        evidence = tuple(
            ClassEvidence(-1 if s.aim.label is None else s.aim.label, s.score, self.strange, s.family.name)
            for s in found
        )
        best: dict[Aim, float] = {}
        for s in found:
            best[s.aim] = max(best.get(s.aim, 0.0), s.score if s.counts else 0.0)
        enough, agreed = self.beside * max(best.values(), default=0.0), self._agreed(found)
        wanted = {aim for aim, score in best.items() if (score >= self.strange or aim in agreed) and score >= enough}
        served = {s.aim for s, opinion in asked.items() if opinion.follow <= self.follow}
        guilty = [s for s in found if s.counts and s.score >= self.usual and s.aim in wanted]
        guilty = guilty or [s for s in found if s.counts and s.score >= self.nearly and s.aim in served]
        if named and not guilty:
            guilty = list(named.guilty)
            evidence += (named.by,)
        highest = max((s.score for s in found if s.counts), default=0.0)
        late = time.monotonic() > run.deadline
        natural = bool(asked) and all(opinion.follow >= self.stay for opinion in asked.values())
        unsure = late or highest == 0 or bool(named) or (not natural and (bool(asked) or highest > self.usual))
        status: Status = "backdoored" if guilty else "inconclusive" if unsure else "clean"
        ordered = [s.aim.label for s in sorted(guilty, key=lambda s: -s.score)]
        targets = tuple(dict.fromkeys(label for label in ordered if label is not None))
        changes = self._stand_ins(model, guilty, images, run)
        triggers = [s.trigger(change) for s, some in zip(guilty, changes, strict=True) for change in some]
        told = [(s, s.times if named else s.score) for s in guilty]
        names = ", ".join(f"{_called(s.aim, model)} ({s.family.name}, {score:.1f} times)" for s, score in told)
        why = (
            f"strangely easy to reach: {names}"
            if guilty
            else "no class was reached by any change, so there is nothing to compare"
            if highest == 0
            else f"no class is easier to reach than {highest:.1f} times the usual (threshold {self.strange})"
        )
        if named:
            why += f"; {named.by.method} points at {model.contract.classes[named.by.label]} ({named.by.score:.1f})"
        for s, opinion in asked.items():
            why += f"; {opinion.closed} filters closed, {opinion.follow:.0%} of the images still follow to "
            why += f"{_called(s.aim, model)} ({s.family.name}), {self.follow:.0%} or less in a backdoor"
        if late:
            why += "; the time budget ended the search early"
        return Evidence(status, targets, evidence, tuple(triggers), why)

    def _stand_ins(self, model: Classifier, guilty: Sequence[Strange], images: Images, run: Run) -> list[list[Change]]:
        """What was found of each, and as much again from other starts."""
        changes = [[strange.change] for strange in guilty]
        with run.progress.task("more of what was found", (self.copies - 1) * len(guilty) * self._whole) as task:
            for copy in range(1, self.copies):
                if guilty and time.monotonic() < run.deadline:
                    make = partial(self._again, model, guilty, images, run.seed + 1000 * copy, task)
                    for some, change in zip(changes, run.step(f"stand-ins, {copy + 1}", make), strict=True):
                        some.append(change)
        return changes

    def _again(
        self, model: Classifier, guilty: Sequence[Strange], images: Images, seed: int, task: Task
    ) -> list[Change]:
        """Each of them from another start."""
        searches = [self._begin(model, s.family, s.aim, images, seed) for s in guilty]
        names = [f"{s.family.name}, {_called(s.aim, model)}" for s in guilty]
        steps = self._whole
        spread(model, [partial(_look, s, steps, math.inf, n, True) for s, n in zip(searches, names, strict=True)], task)
        return [search.result() for search in searches]

    @property
    def _whole(self) -> int:
        """Steps of a search that goes all the way."""
        return self.glance + self.look

    def _begin(self, model: Classifier, family: Family, aim: Aim, images: Images, seed: int) -> Inversion:
        return begin(model, family, aim, images, self.search, torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Named:
    """A class that another kind of evidence points at."""

    by: ClassEvidence
    guilty: tuple[Strange, ...]
    """What sends images there, if anything does."""


Listener = Callable[[Classifier, Images, Sequence[int], Run], Sequence[ClassEvidence]]
"""Scores these classes by something else than small changes."""


@dataclass(frozen=True)
class Opinion:
    """What became of a change when the filters were closed that seem to serve it."""

    closed: int
    """Filters."""
    follow: float
    """Share of the images that still follow."""


SecondOpinion = Callable[[Classifier, Splits, Trigger, Run], Opinion]
"""Looks at one change in another way."""


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

    def trigger(self, change: Change) -> Trigger:
        """A change for this aim, with what is known of its size."""
        return as_trigger(self.family, self.aim, change, {"size": self.size, "usual": self.usual})


def _pointed(scores: Sequence[ClassEvidence], least: float, times: float) -> ClassEvidence | None:
    """The one class that scores so high, and so many times as high as the next."""
    ordered = sorted(scores, key=lambda c: -c.score)
    if len(ordered) < 2 or ordered[0].score < max(least, times * ordered[1].score):
        return None
    return ordered[0]


def _look(
    search: Inversion, steps: int, deadline: float, name: str, counted: bool, model: Classifier, tell: Tell
) -> bool:
    """Goes on with a search for so many steps, in this copy of the network; whether there was time, and an image."""
    search.model = model
    if not len(search.images) or time.monotonic() >= deadline:
        tell(steps * counted, name)
        return False
    for past in range(0, steps, TOLD):
        some = min(TOLD, steps - past)
        search.run(some)
        tell(some * counted, name)
    return True


def _scores(family: Family, searches: Mapping[Aim, Inversion]) -> dict[Aim, float]:
    """How many times smaller than the usual one each change is, as far as the family is trusted."""
    return {aim: family.trust * _usual(searches, aim) / search.size() for aim, search in searches.items()}


def _usual(searches: Mapping[Aim, Inversion], aim: Aim) -> float:
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


def _called(aim: Aim, model: Classifier) -> str:
    """The aim in words; a class by its bare name."""
    if isinstance(aim, ToNext):
        return "each class as the next" if aim.by == 1 else f"each class as the one {aim.by} further"
    return model.contract.classes[aim.label] if aim.label is not None else "any class"


def _promise(search: Inversion) -> float:
    """Small changes that succeeded first, by size; then the others, by how many images follow."""
    return search.best if search.kept else 1e6 * (2 - search.reached)
