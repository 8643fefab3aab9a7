"""How figures are put into words, the same in every form."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harden.reports import words
from harden.types import Rate
from tests.made import report, with_budget


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "under 1 s"), (8.4, "8 s"), (60, "1 min"), (125, "2 min 5 s"), (3600, "1 h"), (4230, "1 h 10 min")],
)
def test_a_time_has_the_units_that_it_needs(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


def test_a_share_comes_with_its_counts_and_its_interval() -> None:
    cell = words.Cell.of(Rate(468, 480))
    assert (cell.value, cell.count, cell.interval) == ("97.5 %", "468 of 480", "95.7 to 98.6 %")
    assert cell.short == "97.5 % (468 of 480)"
    assert cell.full == "97.5 % (468 of 480; 95.7 to 98.6 %)"


@pytest.mark.parametrize(
    ("right", "said"),
    [
        (400, "all of it together cost 0.0 points."),
        (396, "all of it together cost 1.0 points."),
        (395, "all of it together cost 1.2 points, more than the 1 allowed."),
    ],
)
def test_a_budget_says_what_it_cost_on_images_that_it_never_saw(right: int, said: str) -> None:
    told = words.budget(with_budget(report(accuracy_after=Rate(right, 400))))
    assert told == f"Budget reached: 1.5 times. On the 400 images that only report, {said}"
    assert words.budget(with_budget(report(accuracy_after=Rate(9, 10)))) == "Budget reached: 1.5 times."
    assert words.budget(report()) == ""


def test_who_was_hurried_says_so() -> None:
    whole = report()
    assert "time budget" not in words.headline(whole)
    scan = replace(whole.scan, why=whole.scan.why + "; the time budget ended the search early")
    hurried = replace(whole, scan=scan, repair={"stopped_because": "time budget spent"})
    said = " The time budget ended the search and the relearning early: this is the best so far."
    assert words.headline(hurried) == words.headline(whole) + said


def test_nothing_measured_is_no_share() -> None:
    assert words.Cell.of(Rate(0, 0)).full == "not measured"
    assert words.Cell.of(None).full == ""


def test_the_table_has_a_line_for_each_attack_and_one_for_what_is_right_in_spite_of_it() -> None:
    rows = words.rows(report())
    assert [row.name for row in rows if row.inner] == ["true class in spite of it"]
    assert [row.after.short for row in rows][:3] == ["100.0 % (400 of 400)", "0.0 % (0 of 300)", "99.0 % (297 of 300)"]
    assert rows[-1].after.short == "70.00 k (-30 %)"
