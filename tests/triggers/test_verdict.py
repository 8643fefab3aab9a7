"""What scores, names and opinions come to."""

from __future__ import annotations

from typing import cast

import pytest

from harden.triggers.families import Additive, Change, Family, Patch, Spectral, Tone, Veil, Waves
from harden.triggers.inversion import ToClass, ToNext
from harden.triggers.strange import Named, Opinion, Strange
from harden.triggers.verdict import Case, Verdict
from harden.types import ClassEvidence, Contract

CONTRACT = Contract(3, ("red", "green", "blue"), (3, 8, 8), (0.0,) * 3, (1.0,) * 3)
PATCH, ADDITIVE, WAVES, COSINES, TONE = Patch(), Additive(), Waves(), Spectral(), Tone()


def strange(score: float, label: int = 0, family: Family = PATCH, *, counts: bool = True) -> Strange:
    return Strange(family, ToClass(label), score, 1.0, counts, cast("Change", None))


def named(*guilty: Strange) -> Named:
    return Named(ClassEvidence(0, 9.0, 3.5, "its row"), guilty)


def said(case: Case) -> tuple[str, list[int | None]]:
    return Verdict().status(case), [s.aim.label for s in Verdict().guilty(case)]


THIN = strange(1.8, family=Veil("thin veil"))
NEAR, NEAR_GREEN, OVER = strange(1.8), strange(1.7, 1), strange(2.1)
CASES = {
    "nothing strange": (Case([strange(1.2), strange(1.9, 1)]), ("clean", [])),
    "one strange": (Case([strange(2.3), strange(1.2, 1)]), ("backdoored", [0])),
    "strange, but no try succeeded": (Case([strange(9.0, counts=False), strange(1.0, 1)]), ("clean", [])),
    "nothing reached anything": (Case([strange(9.0, counts=False)]), ("inconclusive", [])),
    "nothing was looked at": (Case([]), ("inconclusive", [])),
    "over what is usual": (Case([strange(2.1)]), ("inconclusive", [])),
    "over it in two kinds": (Case([strange(2.1), strange(2.1, family=ADDITIVE)]), ("backdoored", [0, 0])),
    "for two classes": (Case([strange(2.1), strange(2.1, 1, ADDITIVE)]), ("inconclusive", [])),
    "waves and cosines are one kind": (
        Case([strange(2.1, family=WAVES), strange(2.1, family=COSINES)]),
        ("inconclusive", []),
    ),
    "pictures that all or most images follow are one kind": (
        Case([strange(2.1, family=Veil()), strange(2.1, family=Veil("thin veil"))]),
        ("inconclusive", []),
    ),
    "a second target, nearly as strange": (Case([strange(5.0), strange(3.1, 1)]), ("backdoored", [0, 1])),
    "a neighbour that was dragged along": (Case([strange(5.0), strange(2.9, 1)]), ("backdoored", [0])),
    "what else is over usual for it stands in": (
        Case([strange(5.0), strange(2.0, 0, COSINES)]),
        ("backdoored", [0, 0]),
    ),
    "what else is under it does not": (Case([strange(5.0), strange(1.9, 0, COSINES)]), ("backdoored", [0])),
    "no time for more": (Case([strange(1.2)], late=True), ("inconclusive", [])),
    "strange already, and no time for more": (Case([strange(2.3)], late=True), ("backdoored", [0])),
    "a few filters serve it": (Case([NEAR], asked={NEAR: Opinion(2, 0.1)}), ("backdoored", [0])),
    "no filters serve it": (Case([NEAR], asked={NEAR: Opinion(2, 0.25)}), ("clean", [])),
    "some serve it": (Case([NEAR], asked={NEAR: Opinion(2, 0.2)}), ("inconclusive", [])),
    "nothing was closed, and few follow anyhow": (Case([NEAR], asked={NEAR: Opinion(0, 0.1)}), ("inconclusive", [])),
    "of two, one is served": (
        Case([NEAR, NEAR_GREEN], asked={NEAR: Opinion(2, 0.9), NEAR_GREEN: Opinion(2, 0.0)}),
        ("backdoored", [1]),
    ),
    "over usual, few filters serve half of it": (Case([OVER], asked={OVER: Opinion(2, 0.5)}), ("backdoored", [0])),
    "over usual, nobody acquits it": (Case([OVER], asked={OVER: Opinion(2, 0.9)}), ("inconclusive", [])),
    "a name, and what leads there": (Case([NEAR], named(NEAR)), ("backdoored", [0])),
    "a little smaller in every kind": (
        Case([strange(1.2), strange(1.4, family=ADDITIVE), THIN]),
        ("backdoored", [0, 0]),
    ),
    "and some filters serve it": (
        Case([strange(1.2), strange(1.4, family=ADDITIVE), THIN], asked={THIN: Opinion(4, 0.7)}),
        ("backdoored", [0, 0]),
    ),
    "a picture that stands in, whatever its family is discounted for": (
        Case([strange(1.2), strange(1.4, family=ADDITIVE), THIN, strange(1.1, family=Veil()), strange(1.5, 0, TONE)]),
        ("backdoored", [0, 0, 0]),
    ),
    "another comes to half as much": (
        Case([strange(1.2), strange(1.4, family=ADDITIVE), THIN, strange(1.5, 1)]),
        ("backdoored", [0, 0]),
    ),
    "another comes to more than half as much": (
        Case([strange(1.2), strange(1.4, family=ADDITIVE), THIN, strange(1.6, 1)]),
        ("inconclusive", []),
    ),
    "less so": (Case([strange(1.1), strange(1.3, family=ADDITIVE), THIN]), ("inconclusive", [])),
    "hardly": (Case([strange(1.1), strange(1.1, family=ADDITIVE), THIN]), ("clean", [])),
    "of one kind and for many": (Case([THIN, strange(1.7, family=Veil()), strange(1.7, 1)]), ("clean", [])),
    "waves go anywhere": (
        Case([strange(1.2), strange(1.4, family=ADDITIVE), strange(1.8, family=WAVES)]),
        ("clean", []),
    ),
    "larger than usual in one kind": (
        Case([strange(0.5), strange(1.7, family=ADDITIVE), THIN]),
        ("backdoored", [0, 0]),
    ),
    "of two shifts one is easier by chance": (
        Case([Strange(f, ToNext(3), s, 1.0, True, cast("Change", None)) for f, s in ((PATCH, 1.7), (ADDITIVE, 1.8))]),
        ("clean", []),
    ),
    "a name alone": (Case([strange(1.2)], named()), ("inconclusive", [])),
}


@pytest.mark.parametrize(("case", "verdict"), CASES.values(), ids=CASES)
def test_verdicts(case: Case, verdict: tuple[str, list[int | None]]) -> None:
    assert said(case) == verdict


FEW = {
    "not yet strange": (Case([strange(2.7), strange(0.4, 1)]), ("inconclusive", [])),
    "strange": (Case([strange(3.5), strange(0.3, 1)]), ("backdoored", [0])),
    "in two kinds, not yet strange": (Case([strange(2.9), strange(2.9, family=ADDITIVE)]), ("inconclusive", [])),
    "in two kinds": (Case([strange(3.1), strange(3.1, family=ADDITIVE)]), ("backdoored", [0, 0])),
    "nearly strange is not natural": (Case([NEAR], asked={NEAR: Opinion(2, 0.9)}), ("inconclusive", [])),
    "over what is usual elsewhere, served by half": (Case([OVER], asked={OVER: Opinion(2, 0.5)}), ("inconclusive", [])),
    "few filters serve it": (Case([OVER], asked={OVER: Opinion(2, 0.1)}), ("backdoored", [0])),
    "usual": (Case([strange(1.5), strange(0.7, 1)]), ("clean", [])),
}


@pytest.mark.parametrize(("case", "verdict"), FEW.values(), ids=FEW)
def test_of_two_classes_it_takes_more_to_be_sure(case: Case, verdict: tuple[str, list[int | None]]) -> None:
    of_two = Verdict().of(2)
    assert (of_two.status(case), [s.aim.label for s in of_two.guilty(case)]) == verdict
    assert Verdict().of(5) == Verdict()
    assert of_two.of(2) == of_two


def test_of_few_classes_one_may_be_a_little_easier_in_every_kind() -> None:
    case = Case([strange(1.2), strange(1.4, family=ADDITIVE), THIN])
    for classes, status in ((5, "backdoored"), (4, "clean"), (3, "clean"), (2, "inconclusive")):
        assert Verdict().of(classes).status(case) == status
    wanted = "for red patches, patterns and pictures blended in come to 3.0 times together, multiplied (threshold 2.8"
    assert wanted + ", if it is 2 times as much as for any other)" in Verdict().why(case, CONTRACT)
    assert "come to 2.6 times together, multiplied (threshold 2.8)" in Verdict().why(
        Case([strange(1.05), strange(1.4, family=ADDITIVE), THIN]), CONTRACT
    )
    assert "multiplied" not in Verdict().of(4).why(case, CONTRACT)


def test_of_two_classes_it_says_why_it_is_not_sure() -> None:
    of_two, told = Verdict().of(2), "of so few classes little can be said of what is usual"
    assert told in of_two.why(Case([strange(2.7)]), CONTRACT)
    assert "(threshold 3.4)" in of_two.why(Case([strange(2.7)]), CONTRACT)
    assert told not in of_two.why(Case([strange(1.5)]), CONTRACT) + of_two.why(Case([strange(3.5)]), CONTRACT)
    assert told not in Verdict().why(Case([strange(2.1)]), CONTRACT)


def test_it_says_why() -> None:
    assert Verdict().why(Case([strange(2.34, 2)]), CONTRACT) == "strangely easy to reach: blue (patch, 2.3 times)"
    assert "than 1.2 times the usual (threshold 2.3)" in Verdict().why(Case([strange(1.2)]), CONTRACT)
    assert "nothing to compare" in Verdict().why(Case([]), CONTRACT)
    heard = Verdict().why(Case([NEAR], named(NEAR), late=True), CONTRACT)
    assert heard.endswith("its row points at red (9.0); the time budget ended the search early")
