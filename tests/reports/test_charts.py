"""The charts of the page show what was measured, from the start on."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from harden.outcome import Cut, Speed
from harden.reports.charts import BARS_LEFT, BARS_RIGHT, LONGEST, pruning_curve, speeds
from tests.made import report

ORIGINAL = Speed("original", 1, 1, 2.0, 2.2, 1.0, 1.0, 1.0, p5_ms=1.9)
HARDENED = Speed("hardened", 1, 1, 1.0, 1.2, 2.0, 1.9, 2.1, p5_ms=0.9)


def cut() -> Cut:
    found = report().pruned
    assert found is not None
    return found


def test_the_pruning_curve_begins_where_nothing_is_removed_yet() -> None:
    curve = pruning_curve(cut())
    assert curve is not None
    assert {line.kind: line.points[0] for line in curve.lines} == {
        "accuracy": (0, 0.99),
        "attack": (0, 0.98),
        "loss": (0, 1.0),
    }
    assert [n for n, _ in curve.lines[0].points] == [0, 1, 2]


def test_the_chosen_point_is_where_the_search_was_followed_to() -> None:
    one = replace(cut(), refusals=())  # the second filter stayed
    for found, chosen in ((cut(), 2), (one, 1)):
        curve = pruning_curve(found)
        assert curve is not None
        assert curve.chosen == chosen


def test_a_search_that_closed_nothing_has_no_curve() -> None:
    assert pruning_curve(replace(cut(), rounds=cut().rounds[:1])) is None


def lengths(svg: str) -> list[float]:
    """Of the bars, in times of the original's."""
    whole = (BARS_RIGHT - BARS_LEFT) / LONGEST
    return [float(width) / whole for width in re.findall(r'<rect [^>]*width="([\d.]+)"', svg)]


def test_bars_are_as_long_as_the_times_of_their_own_setting() -> None:
    larger = [replace(s, batch=32, median_ms=64 * s.median_ms, p95_ms=64 * s.p95_ms) for s in (ORIGINAL, HARDENED)]
    one, many = speeds((ORIGINAL, HARDENED, *larger))
    assert lengths(one) == lengths(many) == pytest.approx([1, 0.5], abs=0.01)
    assert "batch 1, 1 thread" in one
    assert "batch 32, 1 thread" in many
    assert "2.00 (1.90 to 2.10)" in one


def test_a_line_that_is_too_long_ends_in_an_arrow() -> None:
    slow = replace(HARDENED, kind="int8", median_ms=9.0, p95_ms=11.0, speedup=2 / 9)
    (chart,) = speeds((ORIGINAL, HARDENED, slow))
    assert lengths(chart)[2] == pytest.approx(LONGEST, abs=0.01)
    assert chart.count("<path") == 1
    assert "hardened int8" in chart


def test_an_original_by_itself_needs_no_chart() -> None:
    assert speeds((ORIGINAL,)) == speeds(()) == ()
