"""The policy: its file, its three ready forms, and the verdict at, inside and outside every bound."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any, get_args

import pytest

from harden.errors import UsageError
from harden.judge import at_most, attack_success, images, judge, verdict_of
from harden.outcome import Report, ShippedFile, Speed, Withheld
from harden.policy import (
    CHECKS,
    READY,
    AttackBounds,
    Policy,
    Waiver,
    parse_policy,
    policy_from,
    policy_table,
    read_policy,
)
from harden.policyfile import commented
from harden.reports.records import encode
from harden.toml import dumps
from harden.types import AttackResult, Check, Finding, Measurement, Rate, TriggerSource
from tests.made import report, with_kinds

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
    check = at_most("x", observed, 0.02, "what", over="todo")
    assert check.passed is passed
    assert bool(check.todo) is (not passed)


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
    ],
)
def test_bounds_that_are_off_by_default(setting: dict[str, float], name: str, passed: bool) -> None:
    assert name not in [check.name for check in checks(report())]
    assert found(checks(report(), replace(POLICY, **setting)), name).passed is passed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("measured", "failing"),
    [
        ({}, set()),
        ({"accuracy": Rate(391, 400)}, {"accuracy-drop/int8"}),
        ({"asr": Rate(60, 300)}, {"attack-success/given/sticker/int8"}),  # rounding woke the backdoor
        ({"relative": 0.6}, {"onnx-parity/int8"}),
    ],
)
def test_a_file_of_another_kind_is_judged_by_itself(measured: dict[str, Any], failing: set[str]) -> None:
    run = with_kinds(report(), **measured)
    verdict = judge(run, POLICY)
    assert {check.name for check in verdict.checks if check.passed is not True} == failing
    assert verdict.status == ("fail" if failing else "pass")
    assert {"accuracy-drop", "accuracy-drop/int8", "onnx-parity/int8"} <= {check.name for check in verdict.checks}


@pytest.mark.parametrize(("bound", "passed"), [(0.0025, True), (0.0024, False)])
def test_what_int8_may_lose_is_counted_from_the_fp32_file(bound: float, passed: bool) -> None:
    run = with_kinds(report(accuracy_after=Rate(396, 400)), accuracy=Rate(395, 400))
    assert found(checks(run, replace(POLICY, max_int8_drop=bound)), "int8-accuracy-drop").passed is passed


def test_an_int8_file_that_was_not_worth_it_cannot_lose_anything() -> None:
    run = report()
    assert run.export is not None
    held = Withheld("int8", "not worth it here: 0.66 times as fast")
    run = replace(run, export=replace(run.export, withheld=(held,)))
    check = found(checks(run, replace(POLICY, max_int8_drop=0.01)), "int8-accuracy-drop")
    assert check.passed is True
    assert "No int8 file ships: not worth it here: 0.66 times as fast" in check.why


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


def test_a_waiver_comes_back_from_the_report_of_its_run() -> None:
    policy = replace(POLICY, waivers=(Waiver("size", "known", date(2027, 1, 31)),))
    table = json.loads(json.dumps(encode(policy_table(policy))))
    assert policy_from(table) == policy


def test_an_expired_waiver_says_so() -> None:
    policy = replace(POLICY, waivers=(Waiver("accuracy-drop", "known", date(2026, 6, 30)),))
    check = found(tuple(judge(report(accuracy_after=Rate(300, 400)), policy, date(2026, 7, 1)).checks), "accuracy-drop")
    assert "Its waiver expired on 2026-06-30." in check.why
    assert check.waived == ""


def test_a_waiver_covers_one_check_and_no_other() -> None:
    policy = replace(POLICY, waivers=(Waiver("accuracy-drop", "known", date(2026, 6, 30)),))
    run = report(accuracy_after=Rate(300, 400), parity=1.0)
    assert judge(run, policy, date(2026, 1, 1)).status == "fail"


def with_export(**changes: Any) -> Report:
    run = report()
    assert run.export is not None
    return replace(run, export=replace(run.export, **changes))


def with_agreement(hits: int, least: float) -> Report:
    run = report()
    assert run.export is not None
    return with_export(parity=replace(run.export.parity, argmax_agreement=Rate(hits, 400), least_agreement=least))


@pytest.mark.parametrize(("hits", "least", "passed"), [(399, 1.0, False), (399, 0.99, True), (400, 1.0, True)])
def test_the_file_has_to_say_the_same_classes_too(hits: int, least: float, passed: bool) -> None:
    check = found(checks(with_agreement(hits, least)), "onnx-parity")
    assert check.passed is passed
    assert (f"Same class on {hits} of 400" in check.why) == (not passed)


def with_measured(**changes: Any) -> Report:
    run = report()
    assert run.export is not None
    return with_export(measured=replace(run.export.measured, **changes))


def with_cut(removed: int, total: int) -> Report:
    run = report()
    assert run.pruned is not None
    return replace(run, pruned=replace(run.pruned, filters_removed=removed, filters_total=total))


def with_speed(speedup: float) -> Report:
    return with_export(latency=(Speed("hardened", 1, 1, 1.0, 1.1, speedup, speedup, speedup),))


def with_attack(source: TriggerSource, asr: Rate) -> Report:
    return report(attacks=(AttackResult(source, "t", 0, asr, Rate(0, asr.total)),))


def with_class(hits: int, total: int) -> Report:
    return report(per_class_after=(Rate(hits, total), *[Rate(100, 100)] * 3))


Case = tuple[dict[str, Any], Report, Report, Report, Report]
"""Settings, then runs at the bound, just inside, just outside, and with nothing measured."""
SHARE = {"attack_success_by": "observed"}
KINDS = ("fp16", "int8", "pt2")


def attack_cases(source: TriggerSource) -> Case:
    settings = {**SHARE, "max_attack_success": AttackBounds(0.1, 0.1, 0.1)}
    return settings, *(with_attack(source, rate) for rate in rates(10, 100, -1))  # type: ignore[return-value]


def kind_cases(kind: str, settings: Mapping[str, Any] | None = None, **measured: Sequence[Any]) -> Case:
    """Of a file of another kind, on which one thing was measured as given."""
    ((name, values),) = measured.items()
    return dict(settings or {}), *(with_kinds(report(), kind=kind, **{name: v}) for v in values)  # type: ignore[return-value]


def rates(hits: int, total: int, better: int = 1) -> tuple[Rate, ...]:
    """At a bound, one image inside it, one outside it, and no image at all."""
    return Rate(hits, total), Rate(hits + better, total), Rate(hits - better, total), Rate(0, 0)


BOUNDS: dict[str, Case] = {
    "accuracy-drop": (
        {},
        report(accuracy_after=Rate(392, 400)),
        report(accuracy_after=Rate(393, 400)),
        report(accuracy_after=Rate(391, 400)),
        report(accuracy_after=Rate(0, 0)),
    ),
    "class-accuracy-drop": (
        {"max_class_accuracy_drop": 0.05},
        with_class(95, 100),
        with_class(96, 100),
        with_class(94, 100),
        with_class(0, 0),
    ),
    **{f"attack-success/{source}/t": attack_cases(source) for source in get_args(TriggerSource)},
    "onnx-parity": ({}, report(parity=1e-4), report(parity=9.9e-5), report(parity=1.01e-4), report(parity=math.nan)),
    "latency": (
        {"max_latency_ratio": 0.5},
        with_speed(2.0),
        with_speed(2.01),
        with_speed(1.99),
        with_speed(math.nan),
    ),
    "size": (
        {"max_bytes": 1000},
        with_export(files=(ShippedFile("model.onnx", "fp32", "", 1000),)),
        with_export(files=(ShippedFile("model.onnx", "fp32", "", 999),)),
        with_export(files=(ShippedFile("model.onnx", "fp32", "", 1001),)),
        with_export(files=()),
    ),
    **{f"accuracy-drop/{kind}": kind_cases(kind, accuracy=rates(392, 400)) for kind in KINDS},
    **{f"attack-success/given/sticker/{kind}": kind_cases(kind, SHARE, asr=rates(30, 300, -1)) for kind in KINDS},
    **{f"onnx-parity/{kind}": kind_cases(kind, relative=(0.5, 0.499, 0.501, math.nan)) for kind in KINDS},
    **{f"onnx-parity/{kind}, same class": kind_cases(kind, agreement=rates(340, 400)) for kind in KINDS},
    "int8-accuracy-drop": kind_cases("int8", {"max_int8_drop": 0.01}, accuracy=rates(396, 400)),
    "filters-removed": (
        {"max_filters_removed": 0.25},
        with_cut(4, 16),
        with_cut(3, 16),
        with_cut(5, 16),
        with_cut(0, 0),
    ),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_every_bound_at_it_inside_outside_and_with_nothing_measured(name: str) -> None:
    settings, at, inside, outside, nothing = BOUNDS[name]
    policy = replace(POLICY, **settings)
    check_name = name.split(",")[0]  # of one check, either of its two bounds
    results = [found(checks(run, policy), check_name) for run in (at, inside, outside, nothing)]
    assert [check.passed for check in results] == [True, True, False, None]
    assert [judge(run, policy).status for run in (at, inside, outside)] == ["pass", "pass", "fail"]
    assert judge(nothing, policy).status == "inconclusive"
    assert judge(nothing, replace(policy, when_inconclusive="fail")).status == "fail"
    assert all(check.todo for check in results[2:])
    assert not any(check.todo for check in results[:2])
    assert all(check.bound is not None for check in results)


def without_tolerance() -> Report:
    run = with_kinds(report())
    assert run.export is not None
    (variant,) = run.export.variants
    return with_export(variants=(replace(variant, parity=replace(variant.parity, tolerance=None)),))


@pytest.mark.parametrize(
    ("name", "settings", "run"),
    [
        ("latency", {"max_latency_ratio": 1.0}, with_export(latency=())),
        ("int8-accuracy-drop", {"max_int8_drop": 1.0}, report()),
        ("onnx-parity", {}, replace(report(), export=None)),
        ("onnx-parity/int8", {}, without_tolerance()),
        ("attack-success", {}, report(attacks=())),
        ("scan", {}, report(status="inconclusive", attacks=())),
    ],
)
def test_what_was_skipped_passes_nowhere_and_says_what_to_do(name: str, settings: dict[str, Any], run: Report) -> None:
    policy = replace(POLICY, **settings)
    check = found(checks(run, policy), name)
    assert check.passed is None
    assert check.todo
    assert judge(run, policy).status == "inconclusive"
    assert judge(run, replace(policy, when_inconclusive="fail")).status == "fail"


def test_every_check_that_the_judge_makes_has_a_name_that_a_waiver_may_use() -> None:
    asked = Policy(0.0, 0.0, max_int8_drop=0.0, max_latency_ratio=0.1, max_bytes=1, max_filters_removed=0.0)
    assert {check.name.split("/")[0] for check in checks(report(), asked)} == set(CHECKS)


def test_a_class_that_was_measured_on_other_images_is_not_passed_over() -> None:
    policy = replace(POLICY, max_class_accuracy_drop=0.5)
    assert found(checks(with_class(100, 101), policy), "class-accuracy-drop").passed is None


def test_zero_images_everywhere_pass_nothing_that_was_measured() -> None:
    none = Rate(0, 0)
    run = with_measured(
        accuracy=none,
        per_class=(none,) * 4,
        attack_success=(AttackResult("given", "sticker", 0, none, none),),
    )
    empty = replace(run.before, accuracy=none, per_class=(none,) * 4)
    asked = replace(POLICY, min_images=0, max_class_accuracy_drop=1.0)
    for case in (run, replace(run, before=empty)):
        made = {check.name: check.passed for check in checks(case, asked)}
        assert made["images"] is None
        assert made["accuracy-drop"] is None
        assert made["class-accuracy-drop"] is None
        assert made["attack-success/given/sticker"] is None
        assert judge(case, asked).status == "inconclusive"


def test_no_check_at_all_is_no_pass() -> None:
    assert verdict_of([], POLICY) == "inconclusive"


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
        (
            "[[waiver]]\ncheck = 'sise'\nreason = 'x'\nexpires = 2027-01-31",
            "no check called 'sise'. Did you mean 'size'?",
        ),
        ("[[waiver]]\ncheck = 'size'\nreason = 'x'\nexpires = 2027-01-31T12:00:00", "a date"),
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
