"""The recoverer of the default method: which class can be reached by a strangely small change, and by which?

    size[f, k]      the least change of family f that sends the images to class k      (inversion.py)
    score[f, k]     trust[f] * median of size[f, .] over the other classes that got as many steps / size[f, k]
    named, asked    what a witness, a listener and a second opinion say where no score is high enough to be sure
    verdict         backdoored, clean or inconclusive, by all of these                 (verdict.py)

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
from harden.spread import spread
from harden.triggers.displacement import displacements
from harden.triggers.families import Additive, Change, Family, default_families
from harden.triggers.inversion import Aim, Inversion, Search, ToClass, ToNext, begin, go_on, searchable
from harden.triggers.pairs import OneClass
from harden.triggers.strange import Named, Opinion, Strange, called, strangeness
from harden.triggers.verdict import Case, Verdict
from harden.types import ClassEvidence, Evidence, Images, Recoverer, Run, Splits, Task, Trigger, done


@dataclass(frozen=True)
class SmallestChange:
    """Every promising class against every family; cheap looks first."""

    families: tuple[Family, ...] = field(default_factory=default_families)
    rarely: tuple[str, ...] = ("filter", "veil", "thin veil")
    """Families that are looked at only where none before them is strange; then the easiest classes always go on."""
    whole: str = "veil"
    """The one of these that is also looked at where others accuse a class, since what they found may be parts of a
    picture that lies over all of the image. What reaches that class more easily than is usual is held in reserve."""
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
    longer: int = 50
    """Steps for all-to-all changes after that, where one of them carries many along and the others few: to teach each
    class another answer takes a change twice as long as to teach all the same."""
    carried: tuple[float, float] = (0.5, 2.0)
    """Share of the images that is many, and how many times as many as by any other."""
    hopeless: float = 1.3
    """What a family's strangest class has to reach for further steps."""
    looked: int = 3
    """How many classes that is, in each family; the two whose features are easiest to move always belong to them."""
    compared: int = 4
    """And how many at least, since of two others the easier would stand for what is usual: a target's neighbour."""
    verdict: Verdict = field(default_factory=Verdict)
    witness: Recoverer | None = None
    """Another scan, asked first where something is over `nearly` and nothing over `strange`: it is heard if it points
    at one class, and believed if that is one of those. What makes a family less to be trusted is nothing to it, but
    what is under `easily` for that alone convicts nobody: then it is hard to say."""
    points: tuple[float, float] = (3.5, 2.0)
    """How high that class has to score with the witness, which is what ULRL asks for, and how many times as high as the
    next: harmless networks have such a row too (8 and 15 were seen), so it is the class that has to agree."""
    voters: int = 5
    """Classes that it takes for the witness to be asked: of four rows drawn at random one is so far from the others in
    every third draw, of ten in every seventh, and agrees with what is nearly strange by chance the more often."""
    listener: Listener | None = None
    """Asked next, where nothing is strange: if it points at one class, that is the target, and whatever reaches it
    easily stands in for the trigger; if nothing does, nothing is clean."""
    heard: tuple[float, float] = (4.0, 3.0)
    """How high that class has to score, and how many times as high as the next."""
    second: SecondOpinion | None = None
    """Asked about what is over `nearly`, where nothing is over `strange` and the witness names another class."""
    one_class: OneClass | None = None
    """Looks last, where nothing speaks for a backdoor: for a trigger that works on images of one class alone."""
    opinions: int = 3
    """Most changes that it is asked about, the strangest first."""
    shifts: tuple[int, ...] = (1, 2)
    """For all-to-all attacks: how many classes each image is moved on; shifts are compared with one another."""
    copies: int = 2
    """Stand-ins of each kind that is strange, from different starts."""
    fewest: int = 20
    """Images that are needed to say anything at all."""

    def __call__(self, model: Classifier, splits: Splits, run: Run) -> Evidence:
        return replace(self, verdict=self.verdict.of(model.contract.num_classes))._recover(model, splits, run)

    def _recover(self, model: Classifier, splits: Splits, run: Run) -> Evidence:
        if len(splits.tune) < self.fewest:
            why = f"{len(splits.tune)} images to search with; at least {self.fewest} are needed"
            return Evidence("inconclusive", (), (), (), why)
        images = splits.tune
        copy = searchable(model, images)
        groups: list[list[Aim]] = [[ToClass(k) for k in self._classes(copy, images, run)]]
        if model.contract.num_classes > max(self.shifts, default=0) and len(self.shifts) > 1:
            groups.append([ToNext(model.contract.num_classes, by) for by in self.shifts])
        found: list[Strange] = []
        each = sum(self._each(aims) for aims in groups)
        with run.progress.task("looking for strangely small changes", each * len(self.families)) as task:
            for family in self.families:
                if family.name in self.rarely and self.verdict.sure(found):
                    task.advance(each, f"{family.name} is not needed")
                    continue
                for aims in groups:
                    found += self._looked(copy, family, aims, images, run, task)
        named = self._named(model, splits, self.verdict.near(found, self._apart, self.verdict.nearly), run)
        if named is None or not named.guilty:
            named = self._loudest(copy, images, groups[0], found, run) or named
        near = [] if named else self.verdict.near(found, lambda s: s.score, self.verdict.nearly)
        asked = self._asked(model, splits, near, run)
        case = self._alone(copy, images, Case(found, named, asked), run)
        case = replace(case, late=time.monotonic() > run.deadline)
        return self._judged(copy, images, groups[0], case, run)

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

    def _looked(
        self, model: Classifier, family: Family, aims: Sequence[Aim], images: Images, run: Run, task: Task
    ) -> list[Strange]:
        """What one of the families finds."""
        seed = run.seed + self.families.index(family)
        make = partial(self._compare, model, family, aims, images, seed, run.deadline, task)
        return run.step(f"{family.name}: {', '.join(called(aim, model.contract) for aim in aims)}", make)

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
            names = {aim: f"{family.name}, {called(aim, model.contract)} {how}".strip() for aim in some}
            jobs = [partial(go_on, search, steps, deadline, names[aim], counted) for aim, search in some.items()]
            return dict(zip(some, spread(model, jobs, task), strict=True))

        searches = {aim: self._begin(model, family, aim, images, seed) for aim in aims}  # the same start for every aim
        look(searches, self.glance)
        if self._one_carries(searches):
            look(searches, self.longer, "longer", counted=False)
        chosen = {aim: searches[aim] for aim in self._promising(aims, searches)}
        rare = family.name in self.rarely
        if not rare and max(strangeness(family, chosen).values(), default=math.inf) < self.hopeless:
            task.advance(self.look * len(chosen), f"{family.name} is decided")
        else:
            look(chosen, self.look, "again")
            strangest = max(strangeness(family, chosen).values(), default=math.inf)
            if self.verdict.usual <= strangest <= 2 * self.verdict.strange:
                others = {aim: self._begin(model, family, aim, images, seed + 500) for aim in chosen}
                whole = max(self._steps(aim) for aim in others)
                looked = look(others, whole, "from another start", counted=False)
                better = {aim: min(chosen[aim], others[aim], key=lambda s: (not s.kept, s.size())) for aim in chosen}
                chosen = {aim: better[aim] if looked[aim] else chosen[aim] for aim in chosen}
        scores = strangeness(family, chosen)
        return [Strange(family, a, scores[a], s.size(), bool(s.kept), s.result()) for a, s in chosen.items()]

    def _promising(self, aims: Sequence[Aim], searches: Mapping[Aim, Inversion]) -> list[Aim]:
        """Those that go on: the easiest so far, the first two, and enough others to compare with."""
        order = sorted(aims, key=lambda a: (_promise(searches[a]), aims.index(a)))
        chosen = order[: self.looked]
        chosen += [a for a in aims[:2] if a not in chosen]
        return chosen + [a for a in order if a not in chosen][: max(0, self.compared - len(chosen))]

    def _one_carries(self, searches: Mapping[Aim, Inversion]) -> bool:
        """Whether one change of those that move every class carries many images along, and no other nearly as many."""
        if any(aim.label is not None for aim in searches):
            return False
        *others, most = sorted(search.reached for search in searches.values())
        many, times = self.carried
        return most >= many and most >= times * max(others, default=most)

    def _apart(self, s: Strange) -> float:
        """What the witness is told: what discounts a family is nothing to it. But what a rare one finds in a harmless
        network goes to the very class whose row moves most there.
        """
        return s.score if s.family.name in self.rarely else s.times

    def _named(self, model: Classifier, splits: Splits, near: Sequence[Strange], run: Run) -> Named | None:
        """The class that the witness points at, if it is nearly strange."""
        few = model.contract.num_classes < self.voters
        if self.witness is None or few or not near or time.monotonic() > run.deadline:
            return None
        seen = run.step("a witness of another kind", partial(self.witness, model, splits, replace(run, step=done)))
        pointed = _pointed(seen.evidence, *self.points)
        theirs = [s for s in near if pointed is not None and s.aim.label == pointed.label]
        if pointed is None or not theirs:
            return None
        return Named(pointed, tuple(s for s in theirs if s.score >= self.verdict.easily))

    def _loudest(
        self, model: Classifier, images: Images, aims: Sequence[Aim], found: Sequence[Strange], run: Run
    ) -> Named | None:
        """The class that the listener points at, and what reaches it easily."""
        if self.listener is None or self.verdict.sure(found) or time.monotonic() > run.deadline:
            return None
        labels = [aim.label for aim in aims if aim.label is not None]
        make = partial(self.listener, model, images, labels, replace(run, step=done))
        pointed = _pointed(run.step("how loud each class can be", make), *self.heard)
        if pointed is None:
            return None
        easy = self.verdict.near(found, lambda s: s.score, self.verdict.easily)
        return Named(pointed, tuple(s for s in easy if s.aim.label == pointed.label))

    def _asked(self, model: Classifier, splits: Splits, near: Sequence[Strange], run: Run) -> Mapping[Strange, Opinion]:
        """What the second opinion says of what is nearly strange, until it calls one a backdoor's."""
        said: dict[Strange, Opinion] = {}
        if self.second is None:
            return said
        for s in near[: self.opinions]:
            if time.monotonic() < run.deadline:
                make = partial(self.second, model, splits, s.trigger(s.change), replace(run, step=done))
                said[s] = run.step(f"second opinion on {called(s.aim, model.contract)}, {s.family.name}", make)
                if self.verdict.serve(s, said[s]):
                    break
        return said

    def _alone(self, model: Classifier, images: Images, case: Case, run: Run) -> Case:
        """The case with what leads from one class alone to another, where nothing in it speaks for a backdoor."""
        if self.one_class is None or self.verdict.guilty(case) or time.monotonic() > run.deadline:
            return case
        make = partial(self.one_class, model, images, replace(run, step=done))
        found, lacking = run.step("triggers of one class alone", make)
        return replace(case, found=[*case.found, *found], lacking=lacking)

    def _in_reserve(
        self,
        model: Classifier,
        images: Images,
        aims: Sequence[Aim],
        found: Sequence[Strange],
        guilty: Sequence[Strange],
        run: Run,
    ) -> list[Strange]:
        """Pictures that lie over all of the image, for classes that other changes accuse."""
        accused = {s.aim for s in guilty}
        if not accused or not accused <= set(aims) or any(s.family.name == self.whole for s in guilty):
            return []
        seen = [s for s in found if s.family.name == self.whole]
        family = next((family for family in self.families if family.name == self.whole), None)
        if not seen and family is not None and time.monotonic() < run.deadline:
            with run.progress.task("looking for a picture blended in", self._each(aims)) as task:
                seen = self._looked(model, family, aims, images, run, task)
        return [s for s in seen if s.counts and s.aim in accused and s.times >= 1]

    def _judged(self, model: Classifier, images: Images, aims: Sequence[Aim], case: Case, run: Run) -> Evidence:
        """The verdict, with what speaks for it and with what stands in for the trigger."""
        guilty = self.verdict.guilty(case)
        reserve = self._in_reserve(model, images, aims, case.found, guilty, run)
        evidence = [s.told(self.verdict.strange) for s in case.found]
        if case.named:
            evidence.append(case.named.by)
        ordered = [s.aim.label for s in sorted(guilty, key=lambda s: -s.score)]
        return Evidence(
            self.verdict.status(case),
            tuple(dict.fromkeys(label for label in ordered if label is not None)),
            tuple(evidence),
            self._stand_ins(model, guilty, images, run),
            self.verdict.why(case, model.contract),
            self._stand_ins(model, reserve, images, run),
        )

    def _stand_ins(self, model: Classifier, guilty: Sequence[Strange], images: Images, run: Run) -> tuple[Trigger, ...]:
        """What was found of each, and as much again from other starts."""
        changes = [[strange.change] for strange in guilty]
        each = sum(self._steps(s.aim) for s in guilty)
        with run.progress.task("more of what was found", (self.copies - 1) * each) as task:
            for copy in range(1, self.copies):
                if guilty and time.monotonic() < run.deadline:
                    make = partial(self._again, model, guilty, images, run.seed + 1000 * copy, task)
                    for some, change in zip(changes, run.step(f"stand-ins, {copy + 1}", make), strict=True):
                        some.append(change)
        return tuple(s.trigger(change) for s, some in zip(guilty, changes, strict=True) for change in some)

    def _again(
        self, model: Classifier, guilty: Sequence[Strange], images: Images, seed: int, task: Task
    ) -> list[Change]:
        """Each of them from another start."""
        searches = [self._begin(model, s.family, s.aim, images, seed) for s in guilty]
        names = [f"{s.family.name}, {called(s.aim, model.contract)}" for s in guilty]
        jobs = [
            partial(go_on, search, self._steps(search.aim), math.inf, name, True)
            for search, name in zip(searches, names, strict=True)
        ]
        spread(model, jobs, task)
        return [search.result() for search in searches]

    def _steps(self, aim: Aim) -> int:
        """Steps of a search that goes all the way."""
        return self.glance + (self.longer if aim.label is None else 0) + self.look

    def _each(self, aims: Sequence[Aim]) -> int:
        """Steps for all of these in one family."""
        return len(aims) * self.glance + min(len(aims), self.compared) * self.look

    def _begin(self, model: Classifier, family: Family, aim: Aim, images: Images, seed: int) -> Inversion:
        return begin(model, family, aim, images, self.search, torch.Generator().manual_seed(seed))


Listener = Callable[[Classifier, Images, Sequence[int], Run], Sequence[ClassEvidence]]
"""Scores these classes by something else than small changes."""


SecondOpinion = Callable[[Classifier, Splits, Trigger, Run], Opinion]
"""Looks at one change in another way."""


def _pointed(scores: Sequence[ClassEvidence], least: float, times: float) -> ClassEvidence | None:
    """The one class that scores so high, and so many times as high as the next."""
    ordered = sorted(scores, key=lambda c: -c.score)
    if len(ordered) < 2 or ordered[0].score < max(least, times * ordered[1].score):
        return None
    return ordered[0]


def _promise(search: Inversion) -> float:
    """Small changes that succeeded first, by size; then the others, by how many images follow."""
    return search.best if search.kept else 1e6 * (2 - search.reached)
