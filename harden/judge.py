"""May it ship? A pure function of what was measured and of the policy.

    any check failed            fail
    else any check not decided  what the policy says for it: inconclusive, or fail
    else                        pass

A waived check keeps what it observed, and says that it was waived and until when; it is not held against the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from typing import Literal

from harden.outcome import Report
from harden.policy import SEVERITIES, Policy
from harden.types import AttackResult, Check, Measurement, Verdict


def judge(report: Report, policy: Policy, today: date | None = None) -> Verdict:
    """The verdict on a run. Whatever verdict the report already carries is not read."""
    checks = [_waived(check, policy, today or date.today()) for check in _checks(report, policy)]
    return Verdict(verdict_of(checks, policy), tuple(checks))


def verdict_of(checks: list[Check], policy: Policy) -> Literal["pass", "fail", "inconclusive"]:
    """One word for all the checks."""
    held = [check.passed for check in checks if not check.waived]
    if False in held:
        return "fail"
    if None in held or not checks:
        return policy.when_inconclusive
    return "pass"


def _checks(report: Report, policy: Policy) -> Iterator[Check]:
    yield images(report.final, policy)
    yield scan(report)
    yield findings(report, policy)
    if report.command == "scan":
        return
    yield accuracy_drop(report, policy)
    if policy.max_class_accuracy_drop is not None:
        yield class_accuracy_drop(report, policy)
    yield from attack_successes(report.final, policy)
    if report.scan.status != "clean" and not any(_bound(a, policy) is not None for a in report.final.attack_success):
        yield Check("attack-success", None, None, None, "No trigger was measured. Give one with --trigger.")
    yield from exported(report, policy)
    if policy.max_filters_removed is not None:
        cut = report.pruned
        share = cut.filters_removed / cut.filters_total if cut and cut.filters_total else 0.0
        yield at_most(
            "filters-removed", share, policy.max_filters_removed, "Share of all filters", "Try another --method."
        )


def at_most(name: str, observed: float | None, bound: float, what: str, todo: str) -> Check:
    """The plain check: observed <= bound. A value that is not a number is not decided."""
    if observed is None or math.isnan(observed):
        return Check(name, None, bound, None, f"{what}: could not be measured. {todo}")
    passed = observed <= bound
    relation = "is within" if passed else "is over"
    return Check(
        name, observed, bound, passed, f"{what}: {observed:.3g} {relation} {bound:g}." + ("" if passed else f" {todo}")
    )


def images(measured: Measurement, policy: Policy) -> Check:
    n = measured.accuracy.total
    if n >= policy.min_images and n > 0:
        return Check("images", n, policy.min_images, True, f"{n} images were measured on.")
    todo = "Add clean images, or give others to measure on with --verify-dir."
    return Check("images", n, policy.min_images, None, f"{n} images are fewer than {policy.min_images}. {todo}")


def scan(report: Report) -> Check:
    found, treated = report.scan, report.pruned is not None
    if found.status == "clean":
        return Check("scan", None, None, True, f"No sign of a backdoor. {found.why}".strip())
    if found.status == "backdoored" and report.command == "scan":
        classes = ", ".join(report.contract.classes[k] for k in found.target_classes) or "no single class"
        return Check("scan", None, None, False, f"A backdoor was found (target: {classes}). Run `harden clean`.")
    if found.status == "backdoored" and treated:
        return Check("scan", None, None, True, "A backdoor was found and treated; attack success says how well.")
    if treated and any(a.source == "given" for a in report.final.attack_success):
        return Check("scan", None, None, True, "The trigger was given; attack success says how well it was treated.")
    why = found.why or "The scan could not decide."
    return Check("scan", None, None, None, f"{why} More clean images, or another --method, may decide it.")


def findings(report: Report, policy: Policy) -> Check:
    worst = max((SEVERITIES.index(f.severity) for f in report.source.findings), default=0)
    bound = SEVERITIES.index(policy.max_finding_severity)
    rules = sorted({f.rule for f in report.source.findings if SEVERITIES.index(f.severity) > bound})
    if rules:
        why = f"The file has findings over {policy.max_finding_severity!r}: {', '.join(rules)}. See `harden inspect`."
        return Check("findings", worst, bound, False, why)
    return Check(
        "findings", worst, bound, True, f"Nothing about the file is worse than {policy.max_finding_severity!r}."
    )


def accuracy_drop(report: Report, policy: Policy) -> Check:
    before, after = report.before.accuracy, report.final.accuracy
    if after.total != before.total:
        why = f"Before, {before.total} images were measured, afterwards {after.total}: they cannot be compared."
        return Check("accuracy-drop", None, policy.max_accuracy_drop, None, why)
    # of counts, so that a drop of exactly the bound is not lost to rounding
    drop = (before.hits - after.hits) / before.total if before.total else math.nan
    todo = "More clean images to repair with help most."
    return at_most("accuracy-drop", drop, policy.max_accuracy_drop, f"Accuracy {before} -> {after}", todo)


def class_accuracy_drop(report: Report, policy: Policy) -> Check:
    assert policy.max_class_accuracy_drop is not None
    pairs = zip(report.contract.classes, report.before.per_class, report.final.per_class, strict=True)
    drops = [((b.hits - a.hits) / b.total, name) for name, b, a in pairs if b.total and b.total == a.total]
    drop, name = max(drops, default=(math.nan, "none"))
    todo = "Add clean images of that class."
    return at_most("class-accuracy-drop", drop, policy.max_class_accuracy_drop, f"Worst class ({name})", todo)


def attack_successes(measured: Measurement, policy: Policy) -> Iterator[Check]:
    for attack in measured.attack_success:
        bound = _bound(attack, policy)
        if bound is not None:
            yield attack_success(attack, bound, policy)


def attack_success(attack: AttackResult, bound: float, policy: Policy) -> Check:
    """Three answers: within for certain, over, and too few images to tell."""
    name, asr = f"attack-success/{attack.source}/{attack.name}", attack.asr
    if not asr.total:
        return Check(name, None, bound, None, "The trigger could be put on no image of another class.")
    upper = asr.interval()[1]
    observed = upper if policy.attack_success_by == "upper" else asr.value
    seen = f"{asr.hits} of {asr.total} triggered images succeed"
    if observed <= bound:
        within = f", at most {100 * upper:.1f} % with 95 % confidence" if policy.attack_success_by == "upper" else ""
        return Check(name, observed, bound, True, f"{seen}{within}.")
    if asr.value > bound:
        return Check(
            name, observed, bound, False, f"{seen}: more than {100 * bound:g} %. Try another --method, or more images."
        )
    why = f"{seen}, which still allows {100 * upper:.1f} %; the bound is {100 * bound:g} %. Verify on more images."
    return Check(name, observed, bound, None, why)


def exported(report: Report, policy: Policy) -> Iterator[Check]:
    export = report.export
    if export is None:
        yield Check("onnx-parity", None, policy.max_parity_error, None, "No file was exported.")
        return
    what, todo = "Relative difference between the file and the network", "Report it: the exporter changed the network."
    yield at_most("onnx-parity", export.parity.max_relative, policy.max_parity_error, what, todo)
    if policy.max_latency_ratio is not None:
        speed = next((s for s in export.latency if s.name == "hardened" and s.batch == 1 and s.threads == 1), None)
        ratio = 1 / speed.speedup if speed and speed.speedup > 0 else None
        yield at_most(
            "latency", ratio, policy.max_latency_ratio, "Time, hardened over original", "Leave out --no-latency."
        )
    if policy.max_bytes is not None:
        size = max((file.bytes for file in export.files), default=None)
        yield at_most("size", size, policy.max_bytes, "Bytes of the largest file", "Export int8, or cut more.")
    if policy.max_int8_drop is not None:
        yield Check("int8-accuracy-drop", None, policy.max_int8_drop, None, "No int8 file was made in this run.")


def _bound(attack: AttackResult, policy: Policy) -> float | None:
    found: float | None = getattr(policy.max_attack_success, attack.source)
    return found


def _waived(check: Check, policy: Policy, today: date) -> Check:
    """A check that did not pass, with the waiver that covers it, if one does today."""
    if check.passed:
        return check
    for waiver in policy.waivers:
        if waiver.check == check.name and today <= waiver.expires:
            return replace(check, waived=f"until {waiver.expires}: {waiver.reason}")
        if waiver.check == check.name:
            check = replace(check, why=f"{check.why} Its waiver expired on {waiver.expires}.")
    return check
