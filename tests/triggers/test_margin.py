"""A class that something shouts for is louder than all others; one that nothing shouts for is not."""

from __future__ import annotations

import math

import pytest

from harden.network import Classifier, close, units
from harden.triggers.inversion import searchable
from harden.triggers.margin import LargestMargin
from harden.types import Run
from tests.planted import GUILTY, TARGET, pictures, reachable


def listened(model: Classifier, classes: list[int], run: Run | None = None) -> dict[int, float]:
    found = LargestMargin()(searchable(model, pictures()), pictures(), classes, run or Run())
    return {e.label: e.score for e in found}


def test_a_backdoor_shouts() -> None:
    scores = listened(reachable().model, [0, 1, 2])
    assert scores[TARGET] > LargestMargin().threshold
    assert max(score for k, score in scores.items() if k != TARGET) < 1.5


def test_without_its_filter_it_does_not() -> None:
    model = reachable().model.copy()
    close(units(model), [GUILTY])
    assert max(listened(model, [0, 1, 2]).values()) < 1.5


def test_two_classes_are_too_few_to_compare_and_no_time_is_no_evidence() -> None:
    assert listened(reachable().model, [0, 1]) == {}
    assert listened(reachable().model, [0, 1, 2], Run(deadline=-math.inf)) == {}


def test_the_same_seed_hears_the_same() -> None:
    assert listened(reachable().model, [0, 1, 2]) == pytest.approx(listened(reachable().model, [0, 1, 2]))
