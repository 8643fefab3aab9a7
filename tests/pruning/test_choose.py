"""Decisions on numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harden.pruning.choose import aligned_width, by_layer, cut_sizes, pick, thinned
from harden.types import Filter

SCORES = {"a": [0.1, 0.9, 0.5], "b": [0.7, 0.2]}


def test_the_highest_score_is_picked_over_all_layers() -> None:
    assert pick(SCORES, ()) == [Filter("a", 1)]
    assert pick(SCORES, (), 3) == [Filter("a", 1), Filter("b", 0), Filter("a", 2)]


def test_what_is_closed_is_not_picked_again() -> None:
    assert pick(SCORES, [Filter("a", 1)]) == [Filter("b", 0)]


def test_the_last_open_filter_of_a_layer_is_never_picked() -> None:
    assert pick(SCORES, [Filter("b", 0)], 9) == [Filter("a", 1), Filter("a", 2)]


def test_filters_are_sorted_into_layers_once_each() -> None:
    assert by_layer([Filter("b", 1), Filter("a", 2), Filter("b", 0), Filter("b", 1)]) == {"b": [1, 0], "a": [2]}


@pytest.mark.parametrize(
    ("width", "guilty", "align", "expected"),
    [(64, 1, 8, 56), (64, 8, 8, 56), (64, 9, 8, 48), (16, 1, 8, 8), (8, 1, 8, None), (12, 1, 8, 8), (5, 1, 1, 4)],
)
def test_aligned_width(width: int, guilty: int, align: int, expected: int | None) -> None:
    assert aligned_width(width, guilty, align) == expected


@pytest.mark.parametrize(
    ("width", "guilty", "expected"),
    [
        (64, 1, [8]),
        (64, 10, [16, 8]),
        (16, 16, [8]),
        (8, 3, []),
        (12, 1, [4, 1]),  # never was aligned: the guilty one alone may go
        (12, 5, [5, 4]),
        (6, 6, []),
    ],
)
def test_sizes_of_a_cut(width: int, guilty: int, expected: list[int]) -> None:
    assert cut_sizes(width, guilty, 8) == expected


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([1, 4, 8, 16]))
def test_a_cut_leaves_an_aligned_layer_or_one_that_never_was(width: int, guilty: int, align: int) -> None:
    for size in cut_sizes(width, min(width, guilty), align):
        assert 0 < size < width
        assert (width - size) % align == 0 or width % align


def test_thinned_keeps_the_first_and_the_last() -> None:
    assert thinned([1, 2, 3]) == [1, 2, 3]
    few = thinned(list(range(100, 0, -1)))
    assert len(few) == 6
    assert (few[0], few[-1]) == (100, 1)
