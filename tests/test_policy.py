"""The policy: its file, its three ready forms, and the verdict at, inside and outside every bound."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import pytest

from harden.errors import UsageError
from harden.judge import at_most, attack_success, images, judge
from harden.outcome import Report
from harden.policy import READY, AttackBounds, Policy, Waiver, parse_policy, policy_table, read_policy
from harden.policyfile import commented
from harden.toml import dumps
from harden.types import AttackResult, Check, Finding, Measurement, Rate
from tests.made import report

POLICY = Policy()


def found(verdict_checks: tuple[Check, ...], name: str) -> Check:
    return next(check for check in verdict_checks if check.name == name)


def checks(changed: Report, policy: Policy = POLICY) -> tuple[Check, ...]:
    return tuple(judge(changed, policy, date(2026, 1, 1)).checks)


@pytest.mark.parametrize(
    ("observed", "passed"),
    [(0.02, True), (0.0199999, True), (0.0200001, False), (-0.5, True), (math.nan, None), (None, None)],
)
def test_a_bound_is_met_at_it_and_inside_it_and_nan_is_not_decided(observed: float | None, passed: bool | None) -> None:
    assert at_most("x", observed, 0.02, "what", "todo").passed is passed


@pytest.mark.parametrize(
    ("hits", "total", "bound", "passed"),
    [
        (0, 0, 0.10, None),  # nothing measured
        (0, 10, 0.10, None),  # no hit, and still up to 27.8 %
        (0, 34, 0.10, None),
        (0, 35, 0.10, True),  # the least number of images that can meet 10 %
        (0, 72, 0.05, None),
        (0, 73, 0.05, True),
        (4, 36, 0.10, False),  # 11 %: over, whatever the interval
        (1, 36, 0.10, None),  # 2.8 %, but up to 14.2 %
        (40, 400, 0.10, None),  # exactly at the bound: its interval is not
        (40, 400, 1.0, True),
        (41, 400, 0.10, False),
    ],
)
def test_attack_success_is_judged_by_the_upper_end(hits: int, total: int, bound: float, passed: bool | None) -> None:
    attack = AttackResult("given", "sticker", 0, Rate(hits, total), Rate(0, total))
    assert attack_success(attack, bound, POLICY).passed is passed


@pytest.mark.parametrize(("hits", "passed"), [(40, True), (39, True), (41, False)])
def test_or_by_the_share_as_observed(hits: int, passed: bool) -> None:
    attack = AttackResult("given", "sticker", 0, Rate(hits, 400), Rate(0, 400))
    assert attack_success(attack, 0.10, replace(POLICY, attack_success_by="observed")).passed is passed


@pytest.mark.parametrize(("total", "passed"), [(0, None), (49, None), (50, True), (51, True)])
def test_too_few_images_decide_nothing(total: int, passed: bool | None) -> None:
    assert images(Measurement(Rate(total, total), (), (), 1, 1), POLICY).passed is passed


def test_no_images_never_pass_even_if_none_are_asked_for() -> None:
    assert images(Measurement(Rate(0, 0), (), (), 1, 1), replace(POLICY, min_images=0)).passed is None


def test_a_good_run_passes() -> None:
    verdict = judge(report(), POLICY)
    assert verdict.status == "pass"
    assert all(check.passed for check in verdict.checks)


@pytest.mark.parametrize(("lost", "passed"), [(0, True), (8, True), (9, False)])
def test_accuracy_may_drop_by_exactly_the_bound(lost: int, passed: bool) -> None:
    run = report(accuracy_after=Rate(400 - lost, 400))  # the bound is 8 of 400
    assert found(checks(run), "accuracy-drop").passed is passed
    assert judge(run, POLICY).status == ("pass" if passed else "fail")


def test_other_images_before_and_after_are_not_compared() -> None:
    assert found(checks(report(accuracy_after=Rate(390, 390))), "accuracy-drop").passed is None


@pytest.mark.parametrize(("relative", "passed"), [(1e-4, True), (1.01e-4, False), (math.nan, None)])
def test_parity(relative: float, passed: bool | None) -> None:
    assert found(checks(report(parity=relative)), "onnx-parity").passed is passed


def test_without_a_file_parity_is_not_decided_and_the_run_is_inconclusive() -> None:
    run = replace(report(), export=None)
    assert found(checks(run), "onnx-parity").passed is None
    assert judge(run, POLICY).status == "inconclusive"
    assert judge(run, replace(POLICY, when_inconclusive="fail")).status == "fail"


def test_no_trigger_at_all_is_only_enough_for_a_clean_model() -> None:
    clean = report(status="clean", attacks=())
    assert judge(clean, POLICY).status == "pass"
    unsure = report(status="inconclusive", attacks=())
    assert found(checks(unsure), "attack-success").passed is None
    assert judge(unsure, POLICY).status == "inconclusive"


def test_a_scan_that_finds_a_backdoor_says_no() -> None:
    assert judge(replace(report(), command="scan", pruned=None, after=None, export=None), POLICY).status == "fail"


def test_probes_are_reported_and_only_judged_where_the_policy_asks() -> None:
    probe = AttackResult("probe", "noise", None, Rate(400, 400), Rate(0, 400))
    given = AttackResult("given", "sticker", 0, Rate(0, 360), Rate(360, 360))
    run = report(attacks=(given, probe))
    assert judge(run, POLICY).status == "pass"
    bounds = replace(POLICY, max_attack_success=AttackBounds(probe=0.5))
    assert judge(run, bounds).status == "fail"


@pytest.mark.parametrize(("severity", "passed"), [("medium", True), ("high", False), ("info", True)])
def test_findings_about_the_file(severity: str, passed: bool) -> None:
    run = report()
    finding = Finding("rule", severity, "what")  # type: ignore[arg-type]
    run = replace(run, source=replace(run.source, findings=(finding,)))
    assert found(checks(run), "findings").passed is passed


@pytest.mark.parametrize(
    ("setting", "name", "passed"),
    [
        ({"max_bytes": 1000}, "size", True),
        ({"max_bytes": 999}, "size", False),
        ({"max_filters_removed": 0.25}, "filters-removed", True),
        ({"max_filters_removed": 0.24}, "filters-removed", False),
        ({"max_latency_ratio": 0.5}, "latency", True),
        ({"max_latency_ratio": 0.49}, "latency", False),
        ({"max_class_accuracy_drop": 0.0}, "class-accuracy-drop", True),
        ({"max_int8_drop": 0.5}, "int8-accuracy-drop", None),  # no such file was made: not decided
    ],
)
def test_bounds_that_are_off_by_default(setting: dict[str, float], name: str, passed: bool | None) -> None:
    assert name not in [check.name for check in checks(report())]
    assert found(checks(report(), replace(POLICY, **setting)), name).passed is passed  # type: ignore[arg-type]


def test_the_worst_class_is_named() -> None:
    run = report(per_class_after=(Rate(100, 100), Rate(90, 100), Rate(100, 100), Rate(100, 100)))
    check = found(checks(run, replace(POLICY, max_class_accuracy_drop=0.09)), "class-accuracy-drop")
    assert check.passed is False
    assert "class 1" in check.why


@pytest.mark.parametrize(("today", "status"), [(date(2026, 6, 30), "pass"), (date(2026, 7, 1), "fail")])
def test_a_waiver_holds_until_its_day_and_the_check_stays_failed(today: date, status: str) -> None:
    policy = replace(POLICY, waivers=(Waiver("accuracy-drop", "known", date(2026, 6, 30)),))
    verdict = judge(report(accuracy_after=Rate(300, 400)), policy, today)
    assert verdict.status == status
    check = found(tuple(verdict.checks), "accuracy-drop")
    assert check.passed is False
    assert ("known" in check.waived) is (status == "pass")


@pytest.mark.parametrize("name", sorted(READY))
def test_every_ready_policy_can_be_written_and_read_back(name: str) -> None:
    assert parse_policy(commented(READY[name], name)) == READY[name]
    assert parse_policy(dumps(policy_table(READY[name]))) == READY[name]
    assert read_policy(name) == READY[name]


def test_waivers_can_be_written_and_read_back() -> None:
    policy = replace(POLICY, waivers=(Waiver("size", 'a "reason"\nof two lines', date(2027, 1, 31)),))
    assert parse_policy(dumps(policy_table(policy))) == policy


def test_one_number_bounds_given_and_recovered_triggers() -> None:
    assert parse_policy("max_attack_success = 0.05").max_attack_success == AttackBounds(0.05, 0.05, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_acuracy_drop = 0.1", "Did you mean 'max_accuracy_drop'?"),
        ("max_accuracy_drop = 2", "Write 0.02 for 2 %"),
        ("max_accuracy_drop = true", "share from 0 to 1"),
        ("max_accuracy_drop = nan", "share from 0 to 1"),
        ("max_parity_error = nan", "number"),
        ("min_images = 1.5", "whole number"),
        ("min_images = -1", "at least 0"),
        ('when_inconclusive = "pass"', "fail, inconclusive"),
        ("max_attack_success.givn = 0.1", "Did you mean 'given'?"),
        ("[[waiver]]\ncheck = 'size'", "is missing"),
        ("[[waiver]]\ncheck = 'size'\nreason = 'x'\nexpires = 'soon'", "a date"),
        ("= 1", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_policy_is_said(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_policy(text)
    assert said in str(error.value)


def test_a_policy_that_is_not_there_names_the_ready_ones() -> None:
    with pytest.raises(UsageError, match="Did you mean 'strict'"):
        read_policy("stric")
