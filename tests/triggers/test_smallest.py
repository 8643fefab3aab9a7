"""The scan of the planted network: the right class, with triggers that work; and each way to say less."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from harden.network import Classifier, close, predict, units
from harden.triggers import inversion, smallest
from harden.triggers.again import Again
from harden.triggers.families import Family, Filter, Patch, Spectral, Veil
from harden.triggers.inversion import Aim, Inversion, Search, ToClass, ToNext, begin, searchable
from harden.triggers.put import Put, nearby, stronger
from harden.triggers.smallest import SmallestChange
from harden.triggers.strange import Opinion, Strange, strangeness, usual
from harden.triggers.verdict import Verdict
from harden.types import ClassEvidence, Contract, Cost, Evidence, Images, Run, Splits, Trigger
from tests.planted import CLASSES, GUILTY, TARGET, pictures, reachable, splits

ONE_FAMILY = SmallestChange(families=(Patch(),), look=15)


@pytest.fixture(scope="module")
def model() -> Classifier:
    return reachable().model


@pytest.fixture(scope="module")
def found(model: Classifier) -> Evidence:
    return ONE_FAMILY(model, splits(), Run())


def closed(model: Classifier) -> Classifier:
    model = model.copy()
    close(units(model), [GUILTY])
    return model


def test_backdoored_with_the_right_target(found: Evidence) -> None:
    assert found.status == "backdoored"
    assert found.target_classes == (TARGET,)
    scores = {e.label: e.score for e in found.evidence if e.label >= 0}
    assert scores[TARGET] > 2.3
    assert max(scores[1], scores[2]) < 1
    assert {e.method for e in found.evidence} == {"patch"}
    assert "red (patch," in found.why


def test_its_stand_ins_work_on_images_it_has_not_seen(model: Classifier, found: Evidence) -> None:
    assert len(found.triggers) == 2, "one that was searched for, and another from a new start"
    others = splits().verify
    others = others.take((others.labels != TARGET).nonzero().flatten())
    for trigger in found.triggers:
        assert (trigger.target, trigger.source) == (TARGET, "recovered")
        said = predict(model, trigger(others)).argmax(1)
        assert float((said == TARGET).float().mean()) >= 0.6  # of a batch of 32 it was 0.8
        assert torch.equal(trigger(others).labels, others.labels)
        assert trigger.settings["usual"] > 2.5 * trigger.settings["size"]
    first, second = (trigger(others).pixels for trigger in found.triggers)
    assert not torch.equal(first, second)


class Shifting(nn.Module):
    """Knows its classes by their colour, and calls each one the next where a corner is white."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        said = 100 * x.mean((2, 3))
        white = torch.sigmoid(10 * (x[:, :, -4:, -4:].amin(1).mean((1, 2)) - 0.5))[:, None]
        return (1 - white) * said + white * said.roll(1, 1)


def test_a_trigger_that_makes_each_class_the_next_is_found() -> None:
    contract = Contract(3, CLASSES, (3, 16, 16), (0.0,) * 3, (1.0,) * 3)
    model = Classifier(Shifting(), contract).eval()
    images = splits()
    found = SmallestChange(families=(Patch(),))(model, images, Run())
    assert (found.status, found.target_classes) == ("backdoored", ())
    assert found.why.startswith("strangely easy to reach: each class as the next (patch, ")
    for trigger in found.triggers:
        assert trigger.target is None
        said = predict(model, trigger(images.verify)).argmax(1)
        assert float((said == (images.verify.labels + 1) % 3).float().mean()) >= 0.9
    (again,) = Again(steps=60)(model, images.tune, found.triggers, torch.Generator().manual_seed(1))
    assert again.target is None
    assert 2 * again.settings["size"] < again.settings["usual"]


def test_a_change_that_moves_every_class_gets_the_time_that_it_takes() -> None:
    contract = Contract(3, CLASSES, (3, 16, 16), (0.0,) * 3, (1.0,) * 3)
    model, images = Classifier(Shifting(), contract).eval(), splits()
    hasty = SmallestChange(families=(Patch(),), glance=14, look=4, carried=(0.3, 1.2), longer=0)
    assert hasty(model, images, Run()).status != "backdoored"
    found = replace(hasty, longer=50)(model, images, Run())
    assert found.status == "backdoored", found.why
    assert found.why.startswith("strangely easy to reach: each class as the next")
    first, second = (float(cast("Put", trigger.apply).change.size()) for trigger in found.triggers)
    assert second < 1.3 * first, "so does each further stand-in"


@pytest.mark.parametrize(
    ("aims", "reached", "longer"),
    [
        ([ToNext(3, 1), ToNext(3, 2)], [0.6, 0.2], True),
        ([ToNext(3, 1), ToNext(3, 2)], [0.2, 0.6], True),
        ([ToNext(3, 1), ToNext(3, 2)], [0.4, 0.1], False),
        ([ToNext(3, 1), ToNext(3, 2)], [0.9, 0.5], False),
        ([ToClass(0), ToClass(1)], [0.6, 0.2], False),
    ],
)
def test_only_where_one_such_change_carries_many_and_no_other_does(
    aims: list[Any], reached: list[float], longer: bool
) -> None:
    searches: Any = {aim: SimpleNamespace(reached=share) for aim, share in zip(aims, reached, strict=True)}
    assert SmallestChange()._one_carries(searches) is longer


def test_nothing_to_find_where_the_guilty_filter_is_closed(model: Classifier) -> None:
    nothing = ONE_FAMILY(closed(model), splits(), Run())
    assert (nothing.status, nothing.target_classes, nothing.triggers) == ("inconclusive", (), ())
    assert nothing.why == "no class was reached by any change, so there is nothing to compare"


def test_what_hardly_any_image_follows_is_no_longer_the_backdoor(model: Classifier) -> None:
    found = ONE_FAMILY(model, splits(), Run())
    look = Again(ONE_FAMILY.families, steps=60, within=1.5, follow=0.3)
    anything = replace(look, follow=0.0)
    assert look(model, splits().tune, found.triggers, torch.Generator().manual_seed(1))
    assert not look(closed(model), splits().tune, found.triggers, torch.Generator().manual_seed(1))
    assert anything(closed(model), splits().tune, found.triggers, torch.Generator().manual_seed(1))


def test_a_search_without_time_does_not_call_anything_clean(model: Classifier) -> None:
    late = ONE_FAMILY(model, splits(), Run(deadline=time.monotonic() - 1))
    assert (late.status, late.target_classes, late.triggers) == ("inconclusive", (), ())
    assert "time budget" in late.why


def test_strange_but_not_strange_enough_is_inconclusive(model: Classifier) -> None:
    unsure = replace(ONE_FAMILY, verdict=Verdict(strange=1000.0))(model, splits(), Run())
    assert (unsure.status, unsure.target_classes, unsure.triggers) == ("inconclusive", (), ())


@pytest.mark.parametrize(
    ("follow", "status", "targets"),
    [
        (0.0, "backdoored", (TARGET,)),
        (0.1, "backdoored", (TARGET,)),
        (0.11, "inconclusive", ()),
        (0.25, "clean", ()),
        (1.0, "clean", ()),
    ],
)
def test_where_sizes_leave_a_doubt_the_second_opinion_decides(
    model: Classifier, follow: float, status: str, targets: tuple[int, ...]
) -> None:
    asked: list[Trigger] = []

    def opinion(_model: Classifier, _splits: Splits, trigger: Trigger, _run: Run) -> Opinion:
        asked.append(trigger)
        return Opinion(3, follow)

    doubtful = replace(ONE_FAMILY, verdict=Verdict(strange=1000.0, usual=900.0), shifts=(), second=opinion)
    said = doubtful(model, splits(), Run())
    assert (said.status, said.target_classes) == (status, targets)
    assert [trigger.target for trigger in asked] == [TARGET], "no other class is nearly strange"
    assert bool(said.triggers) == (status == "backdoored")
    assert f"3 filters closed, {follow:.0%} of the images still follow to red (patch)" in said.why

    asked.clear()
    for bounds in (Verdict(), Verdict(strange=1000.0, usual=900.0, nearly=900.0)):
        sure = replace(doubtful, verdict=bounds)
        sure(model, splits(), Run())
    assert not asked, "where sizes leave no doubt nobody is asked"


@pytest.mark.parametrize(
    ("scores", "status"),
    [
        ((9.0, 4.0, 1.0), "backdoored"),
        ((9.0, 5.0, 1.0), "clean"),  # it does not point at one class
        ((3.4, 1.0, 1.0), "clean"),
        ((4.0, 9.0, 1.0), "clean"),  # another one
        ((), "clean"),  # it has nothing to say of this network
    ],
)
def test_a_witness_is_believed_of_the_class_that_is_nearly_strange(
    model: Classifier, scores: tuple[float, ...], status: str
) -> None:
    order = [TARGET, *(k for k in range(3) if k != TARGET)]

    def witness(model: Classifier, splits: Splits, run: Run) -> Evidence:  # noqa: ARG001
        seen = tuple(ClassEvidence(k, score, 1.0, "rows") for k, score in zip(order, scores, strict=False))
        return Evidence("inconclusive", (), seen, ())

    def natural(*_: object) -> Opinion:
        return Opinion(3, 1.0)

    doubtful = replace(
        ONE_FAMILY, verdict=Verdict(strange=1000.0, usual=900.0), shifts=(), witness=witness, voters=3, second=natural
    )
    said = doubtful(model, splits(), Run())
    assert said.status == status
    assert bool(said.triggers) == (status == "backdoored")
    assert ("rows points at red (9.0)" in said.why) == (status == "backdoored")
    assert ("3 filters closed" in said.why) == (status == "clean"), "it is asked first, and alone if it is believed"


@pytest.mark.parametrize(
    ("scores", "strange", "easily", "status"),
    [
        ((9.0, 2.0, 1.0), 1000.0, 1.3, "backdoored"),
        ((9.0, 2.0, 1.0), 1000.0, 1000.0, "inconclusive"),  # it shouts, and nothing is known that makes it
        ((9.0, 3.1, 1.0), 1000.0, 1.3, "clean"),  # it does not point at one class
        ((3.9, 1.0, 1.0), 1000.0, 1.3, "clean"),
        ((2.0, 9.0, 1.0), 1000.0, 1.3, "inconclusive"),  # another class, that nothing reaches easily
        ((), 1000.0, 1.3, "clean"),  # it has nothing to say of this network
        ((2.0, 9.0, 1.0), 2.3, 1.3, "backdoored"),  # where sizes leave no doubt nobody is asked
    ],
)
def test_a_class_that_shouts_is_the_target_where_something_reaches_it_easily(
    model: Classifier, scores: tuple[float, ...], strange: float, easily: float, status: str
) -> None:
    order = [TARGET, *(k for k in range(3) if k != TARGET)]
    asked: list[Sequence[int]] = []

    def listener(_model: Classifier, _images: Images, classes: Sequence[int], _run: Run) -> list[ClassEvidence]:
        asked.append(classes)
        return [ClassEvidence(k, score, 4.0, "margin") for k, score in zip(order, scores, strict=False)]

    bounds = Verdict(strange=strange, usual=900.0 if strange > 900 else 2.0, nearly=900.0, easily=easily)
    doubtful = replace(ONE_FAMILY, verdict=bounds, shifts=(), listener=listener)
    said = doubtful(model, splits(), Run())
    assert said.status == status
    assert bool(said.triggers) == (status == "backdoored")
    assert [sorted(some) for some in asked] == ([[0, 1, 2]] if strange > 900 else [])
    heard = strange > 900 and status != "clean"
    assert ("margin points at" in said.why) == heard
    assert any(e.method == "margin" for e in said.evidence) == heard


@pytest.mark.parametrize(
    ("scores", "targets"),
    [
        ({"patch": (2.1, 1.0), "spectral": (2.1, 1.0)}, (0,)),
        ({"patch": (2.1, 1.0), "spectral": (1.9, 1.0)}, ()),
        ({"patch": (2.1, 1.0), "spectral": (1.0, 2.1)}, ()),  # of one class each
        ({"spectral": (2.1, 1.0), "smooth": (2.1, 1.0)}, ()),  # of one kind
        ({"patch": (2.1, 9.0), "spectral": (2.1, 1.0)}, (1,)),  # another class is far stranger: it drags this one along
    ],
)
def test_changes_of_two_kinds_that_agree_are_enough(
    model: Classifier,
    monkeypatch: pytest.MonkeyPatch,
    scores: dict[str, tuple[float, float]],
    targets: tuple[int, ...],
) -> None:
    def compared(_self: SmallestChange, _model: Classifier, family: Family, *_: Any) -> list[Strange]:
        change = family.start((3, 16, 16), torch.Generator(), torch.device("cpu"))
        return [Strange(family, ToClass(k), score, 1.0, True, change) for k, score in enumerate(scores[family.name])]

    asked: list[Trigger] = []

    def opinion(_model: Classifier, _splits: Splits, trigger: Trigger, _run: Run) -> Opinion:
        asked.append(trigger)
        return Opinion(1, 0.6)

    monkeypatch.setattr(SmallestChange, "_compare", compared)
    families = tuple(f for f in (Patch(), Spectral(), Spectral("smooth")) if f.name in scores)
    said = SmallestChange(families=families, shifts=(), copies=1, second=opinion)(model, splits(), Run())
    assert (said.status, said.target_classes) == ("backdoored" if targets else "inconclusive", targets)
    assert bool(asked) != bool(targets), "nobody else is asked then"


@pytest.mark.parametrize(("score", "looked"), [(2.4, ["patch"]), (2.2, ["patch", "filter"])])
def test_what_is_rare_is_looked_at_only_where_nothing_is_strange(
    model: Classifier, monkeypatch: pytest.MonkeyPatch, score: float, looked: list[str]
) -> None:
    asked: list[str] = []

    def compared(_self: SmallestChange, _model: Classifier, family: Family, *_: Any) -> list[Strange]:
        asked.append(family.name)
        change = family.start((3, 16, 16), torch.Generator(), torch.device("cpu"))
        scores = (score if family.name == "patch" else 3.0, 1.0)
        return [Strange(family, ToClass(k), s, 1.0, True, change) for k, s in enumerate(scores)]

    monkeypatch.setattr(SmallestChange, "_compare", compared)
    said = SmallestChange(families=(Patch(), Filter()), shifts=(), copies=1)(model, splits(), Run())
    assert asked == looked
    assert said.status == "backdoored"
    kinds = {str(trigger.settings["family"]) for trigger in said.triggers}
    assert kinds == {"patch", "filter"} if "filter" in looked else {"patch"}


@pytest.mark.parametrize(
    ("patch", "smooth", "veil", "reserved", "looked"),
    [
        (2.4, 1.0, 1.5, True, True),  # something accuses: a picture may lie over all of the image
        (2.4, 1.0, 0.85, True, True),  # the discount of its family is nothing to that
        (2.4, 1.0, 0.7, False, True),  # but a picture leads there less easily than usual
        (2.4, 2.4, 1.5, True, True),
        (1.0, 2.4, 1.5, True, True),
        (1.0, 1.0, 1.5, False, True),  # nothing is strange: looked at as evidence, and it is none
    ],
)
def test_where_something_accuses_a_class_a_picture_blended_in_is_held_in_reserve(
    model: Classifier,
    monkeypatch: pytest.MonkeyPatch,
    patch: float,
    smooth: float,
    veil: float,
    reserved: bool,
    looked: bool,
) -> None:
    asked: list[str] = []

    def compared(_self: SmallestChange, _model: Classifier, family: Family, *_: Any) -> list[Strange]:
        asked.append(family.name)
        change = family.start((3, 16, 16), torch.Generator(), torch.device("cpu"))
        scores = ({"patch": patch, "spectral": smooth, "veil": veil}[family.name], 1.5)
        return [Strange(family, ToClass(k), s, 1.0, True, change) for k, s in enumerate(scores)]

    monkeypatch.setattr(SmallestChange, "_compare", compared)
    said = SmallestChange(families=(Patch(), Spectral(), Veil()), shifts=())(model, splits(), Run())
    assert asked.count("veil") == looked
    told = [(trigger.settings["family"], trigger.target) for trigger in said.reserve]
    assert told == ([("veil", 0)] * 2 if reserved else []), "what was found, and another from a new start"
    assert "veil" not in [trigger.settings["family"] for trigger in said.triggers]


def test_a_picture_that_accuses_by_itself_is_no_reserve(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    def compared(_self: SmallestChange, _model: Classifier, family: Family, *_: Any) -> list[Strange]:
        change = family.start((3, 16, 16), torch.Generator(), torch.device("cpu"))
        score = 3.5 if family.name == "veil" else 1.0
        return [Strange(family, ToClass(k), s, 1.0, True, change) for k, s in enumerate((score, 1.0))]

    monkeypatch.setattr(SmallestChange, "_compare", compared)
    said = SmallestChange(families=(Patch(), Veil()), shifts=(), copies=1)(model, splits(), Run())
    assert [trigger.settings["family"] for trigger in said.triggers] == ["veil"]
    assert said.reserve == ()


def test_what_is_looked_at_rarely_is_among_the_families_and_none_is_called_as_another() -> None:
    scan = SmallestChange()
    names = [family.name for family in scan.families]
    assert len(set(names)) == len(names)
    assert {*scan.rarely, scan.whole} <= set(names)
    assert [f.success for f in scan.families if isinstance(f, Veil)] == [0.95, 0.8], (
        "nearly all images, and most of them"
    )


@pytest.mark.parametrize("rarely", [(), ("patch",)])
def test_what_seems_hopeless_is_decided_early_but_not_what_is_rare(
    model: Classifier, monkeypatch: pytest.MonkeyPatch, rarely: tuple[str, ...]
) -> None:
    looked: list[str] = []
    real = inversion.go_on

    def noted(*called: Any) -> bool:
        looked.append(called[3])
        return real(*called)

    monkeypatch.setattr(smallest, "go_on", noted)
    replace(ONE_FAMILY, shifts=(), copies=1, hopeless=1e9, rarely=rarely)(model, splits(), Run())
    assert any(name.endswith("again") for name in looked) == bool(rarely)


def test_every_class_is_looked_at_until_a_patch_has_shrunk(model: Classifier) -> None:
    images = splits().tune
    search = begin(
        searchable(model, images), Patch(), ToClass(TARGET), images, Search(), torch.Generator().manual_seed(0)
    )
    start = float(search.change.size().detach())
    search.run(SmallestChange().glance)
    assert search.kept
    assert search.size() < 0.5 * start


def test_what_is_hard_to_say_is_searched_from_another_start(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    real = SmallestChange._begin

    def counted(*called: Any) -> Inversion:
        seeds.append(called[-1])
        return real(*called)

    monkeypatch.setattr(SmallestChange, "_begin", counted)
    short = replace(ONE_FAMILY, shifts=(), verdict=Verdict(strange=1000.0))
    short(model, splits(), Run())
    assert seeds == [0, 0, 0, 500, 500, 500], "every promising class once, so that they stay comparable"
    seeds.clear()
    replace(short, verdict=Verdict(strange=1000.0, usual=1e9))(model, splits(), Run())
    assert seeds == [0, 0, 0]


def test_two_threads_find_what_one_finds(model: Classifier) -> None:
    def scanned(threads: int) -> tuple[Evidence, Cost]:
        cost, before = Cost(), torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return ONE_FAMILY(Classifier(model.network, model.contract, cost).eval(), splits(), Run()), cost
        finally:
            torch.set_num_threads(before)

    (one, cost), (two, same) = scanned(1), scanned(2)
    assert one.evidence == two.evidence
    assert cost == same
    assert cost.backward_images > 0


def test_a_family_that_is_not_trusted_accuses_nobody(model: Classifier) -> None:
    distrusting = replace(ONE_FAMILY, families=(Patch(trust=0.01),), shifts=(), voters=3)
    distrusted = distrusting(model, splits(), Run())
    assert (distrusted.status, distrusted.target_classes, distrusted.triggers) == ("clean", (), ())

    def witness(model: Classifier, splits: Splits, run: Run) -> Evidence:  # noqa: ARG001
        return Evidence("inconclusive", (), tuple(ClassEvidence(k, 9.0 * (k == TARGET), 1, "rows") for k in (0, 1)), ())

    heard = replace(distrusting, witness=witness)(model, splits(), Run())
    assert (heard.status, heard.triggers) == ("inconclusive", ()), "a witness sees apart, but of next to nothing"
    rare = replace(distrusting, rarely=("patch",), witness=witness)(model, splits(), Run())
    assert rare.status == "clean", "of what is rare it is told what it counts"
    believed = replace(distrusting, families=(Patch(trust=0.085),), witness=witness)(model, splits(), Run())
    assert (believed.status, believed.target_classes) == ("backdoored", (TARGET,)), "under 2.3, over 1.3"
    unheard = replace(distrusting, families=(Patch(trust=0.085),), witness=witness, voters=4)
    assert unheard(model, splits(), Run()).status != "backdoored", "of three rows one is far from the others by chance"


@pytest.mark.parametrize(
    ("sizes", "chosen"),
    [
        ((3.0, 4.0, 9.0, 5.0, 8.0, 7.0), [0, 1, 3, 5]),  # the first two are among the easiest: one more to compare with
        ((3.0, 9.0, 8.0, 5.0, 4.0, 7.0), [0, 4, 3, 1]),
        ((9.0, 8.0, 3.0, 5.0, 4.0, 7.0), [2, 4, 3, 0, 1]),
        ((3.0, 4.0), [0, 1]),
    ],
)
def test_three_others_at_least_tell_what_is_usual(sizes: tuple[float, ...], chosen: list[int]) -> None:
    aims = [ToClass(k) for k in range(len(sizes))]
    searches: Any = {aim: SimpleNamespace(kept=[1], best=size) for aim, size in zip(aims, sizes, strict=True)}
    assert [aim.label for aim in SmallestChange()._promising(aims, searches)] == chosen


def searched(model: Classifier, size: float, succeeded: bool) -> Inversion:
    found = begin(model, Patch(), ToClass(TARGET), pictures(), Search(), torch.Generator())
    found.best, found.largest, found.kept = (size, 99.0, [torch.zeros(1)]) if succeeded else (math.inf, size, [])
    return found


def test_what_is_usual_is_told_by_searches_that_succeeded_if_there_are_any(model: Classifier) -> None:
    search = partial(searched, model)
    mine: dict[Aim, Inversion] = {ToClass(0): search(1, True)}
    failed: dict[Aim, Inversion] = {ToClass(k): search(40 + k, False) for k in (3, 4, 5)}
    assert usual(mine, ToClass(0)) == 1
    assert usual({**mine, **failed}, ToClass(0)) == 44
    assert usual({**mine, **failed, ToClass(6): search(11, True)}, ToClass(0)) == pytest.approx(math.sqrt(43 * 11))
    others: dict[Aim, Inversion] = {ToClass(k): search(k, True) for k in (6, 7, 8)}
    assert usual({**mine, **failed, **others}, ToClass(0)) == 8
    large: dict[Aim, Inversion] = {ToClass(k): search(50, True) for k in (6, 7)}
    assert usual({**mine, **failed, **large}, ToClass(0)) == 45
    assert usual({**mine, **others}, ToClass(0)) == 7


def test_by_a_picture_blended_in_no_class_is_called_far_easier_than_the_next(model: Classifier) -> None:
    search = partial(searched, model)
    sizes = {0: 10, 1: 12, 2: 27, 3: 27, 4: 27, 5: 27}
    two: dict[Aim, Inversion] = {ToClass(k): search(size, True) for k, size in sizes.items()}
    scores = strangeness(Veil(trust=1.0, apart=1.5), two)
    assert [scores[ToClass(k)] for k in (0, 1, 2)] == pytest.approx([1.8, 1.25, 15 / 27])
    assert strangeness(Patch(), two)[ToClass(0)] == pytest.approx(2.7), "of other changes two targets are seen"
    alone: dict[Aim, Inversion] = {aim: some for aim, some in two.items() if aim != ToClass(1)}
    assert strangeness(Veil(trust=1.0, apart=1.5), alone)[ToClass(0)] == pytest.approx(2.7)
    unknown: dict[Aim, Inversion] = {**alone, ToClass(1): search(12, False)}
    assert strangeness(Veil(trust=1.0, apart=1.5), unknown)[ToClass(0)] == pytest.approx(2.7), "it never succeeded"


def test_what_never_succeeded_is_reported_as_usual() -> None:
    change = Filter().start((3, 16, 16), torch.Generator(), torch.device("cpu"))
    tries = [
        Strange(Filter(), ToClass(1), score, 1.0, counts, change) for score in (0.3, 4.4) for counts in (True, False)
    ]
    assert [tried.told(2.3).score for tried in tries] == [0.3, 0.3, 4.4, Filter().trust]


def test_too_few_images_say_nothing(model: Classifier) -> None:
    few = Splits(pictures(6), pictures(6), pictures(6))
    verdict = SmallestChange()(model, few, Run())
    assert (verdict.status, verdict.target_classes, verdict.triggers) == ("inconclusive", (), ())
    assert verdict.why == "18 images to search with; at least 20 are needed"


def test_of_many_classes_the_easiest_and_some_from_the_other_end_are_searched() -> None:
    strengths = torch.diag(1.0 + torch.arange(12))  # the higher its number, the less has to move
    layer = nn.Linear(24, 12, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.cat([torch.eye(12), strengths], 1))
    contract = Contract(12, tuple("abcdefghijkl"), (1, 1, 24), (0.0,), (1.0,))
    model = Classifier(nn.Sequential(nn.Flatten(), layer), contract).eval()
    images = Images(torch.eye(24)[:1].repeat(5, 1)[:, None, None], torch.zeros(5).long(), tuple("abcde"))
    assert SmallestChange(classes=4, more=0.0)._classes(model, images, Run()) == [11, 10, 9, 0]
    assert SmallestChange(classes=4, more=0.25)._classes(model, images, Run()) == [11, 10, 9, 8, 7, 0]
    assert SmallestChange(classes=12)._classes(model, images, Run()) == list(range(11, -1, -1))


def test_of_many_classes_of_a_network_without_a_linear_head_those_with_the_easiest_first_steps_are_searched() -> None:
    head = nn.Conv2d(1, 12, 1)  # each class needs more light than the one before
    with torch.no_grad():
        head.weight.copy_(torch.arange(12.0).view(12, 1, 1, 1))
        head.bias.copy_(-torch.arange(12.0).square() / 20)  # type: ignore[union-attr]
    network = nn.Sequential(head, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(network, Contract(12, tuple("abcdefghijkl"), (1, 8, 8), (0.0,), (1.0,))).eval()
    images = Images(torch.full((30, 1, 8, 8), 0.05), torch.zeros(30).long(), tuple(map(str, range(30))))
    chosen = SmallestChange(classes=4, more=0.0)._classes(model, images, Run())
    assert len(set(chosen)) == 4
    assert chosen[:2] == [1, 2], "all images are of the first class, and these are the next"


def test_looking_again_finds_it_while_it_is_there(model: Classifier, found: Evidence) -> None:
    again = Again(families=(Patch(),), steps=60)
    sizes = []
    for now in (model, closed(model)):
        (new,) = again(now, pictures(), found.triggers, torch.Generator().manual_seed(1))
        assert new.target == TARGET
        sizes.append(new.settings["size"])
    usual = found.triggers[0].settings["usual"]
    assert 2.5 * sizes[0] < usual
    assert 2.5 * sizes[1] > usual


def test_looking_again_needs_something_to_look_for(model: Classifier) -> None:
    given = reachable().evidence.triggers
    assert Again()(model, pictures(), given, torch.Generator()) == []


def test_stronger_stand_ins_stay_under_the_usual_size(found: Evidence) -> None:
    (first, *_) = found.triggers
    doubled = stronger([first], (2.0, 1e6), most=1.0)
    assert [t.settings["size"] for t in doubled] == [pytest.approx(2 * first.settings["size"], rel=1e-2)]
    images = pictures()
    before, after = (float((t(images).pixels - images.pixels).abs().mean()) for t in (first, doubled[0]))
    assert after > 1.3 * before
    assert stronger([first], (2.0,), most=1e-3) == []
    unknown = Trigger("given", "given", TARGET, lambda images: images)
    assert stronger([unknown], (2.0,), most=1.0) == []


def test_the_search_borrows_the_model(model: Classifier) -> None:
    copy = searchable(model, pictures())
    assert not any(p.requires_grad for p in copy.parameters())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert copy.contract.classes == CLASSES
    torch.testing.assert_close(predict(copy, pictures()), predict(model, pictures()), atol=1e-3, rtol=1e-3)


def test_near_what_is_known_it_is_found_in_few_steps(model: Classifier, found: Evidence) -> None:
    assert len(found.triggers) == 2

    def look(known: bool, now: Classifier) -> list[Trigger]:
        again = Again(families=(Patch(),), steps=4, within=1.25, follow=0.5, known=known)
        return again(now, pictures(), found.triggers, torch.Generator().manual_seed(1))

    near = look(True, model)
    assert [t.target for t in near] == [TARGET, TARGET], "one near each of them"
    assert all(t.settings["size"] > first.settings["size"] for t, first in zip(near, found.triggers, strict=True))
    assert look(False, model) == [], "from nothing four steps are too few"
    assert look(True, closed(model)) == [], "nothing is left of it"
    for trigger in found.triggers:
        assert isinstance(trigger.apply, Put)
        assert not any(p.requires_grad for p in trigger.apply.change.parameters), "what is known stays as it is"


def test_nearby_is_as_strong_as_the_bound_allows(found: Evidence) -> None:
    (first, *_) = found.triggers
    size = first.settings["size"]
    for bound, times in ((math.inf, 2.0), (1.5 * size, 1.5), (0.5 * size, 0.5)):
        change = nearby(first, bound)
        assert change is not None
        assert float(change.size()) == pytest.approx(times * size, rel=0.05)  # no pixel of a patch is quite closed
    assert nearby(Trigger("given", "given", TARGET, lambda images: images), 1.0) is None


def test_patches_have_a_bound_of_their_own_since_they_hide_what_they_cover(found: Evidence, model: Classifier) -> None:
    def sizes(look: Again) -> list[float]:
        again = look(model, pictures(), found.triggers, torch.Generator().manual_seed(1))
        return [t.settings["size"] / t.settings["usual"] for t in again]

    wide = Again(families=(Patch(),), steps=4, within=0.5, known=True)
    assert sizes(replace(wide, patches=0.5)) == sizes(wide)
    bounded = sizes(replace(wide, patches=16.0))
    assert bounded
    assert all(small < large for small, large in zip(bounded, sizes(wide), strict=True))
