"""May it ship? A pure function of what was measured and of the policy.

    any check failed            fail
    else any check not decided  what the policy says for it: inconclusive, or fail
    else                        pass

A waived check keeps what it observed, and says that it was waived and until when; it is not held against the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from typing import Literal

from harden.outcome import Exported, Report, Variant
from harden.policy import SEVERITIES, Policy
from harden.reports.words import size
from harden.types import AttackResult, Check, Measurement, Rate, Verdict


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
    yield accuracy_drop(report.before, report.final, policy)
    if policy.max_class_accuracy_drop is not None:
        yield class_accuracy_drop(report, policy)
    yield from attack_successes(report.final, policy)
    if report.scan.status != "clean" and not any(_bound(a, policy) is not None for a in report.final.attack_success):
        yield Check("attack-success", None, None, None, "No trigger was measured.", todo="Give one with --trigger.")
    yield from exported(report, policy)
    if policy.max_filters_removed is not None:
        yield filters_removed(report, policy.max_filters_removed)


def at_most(
    name: str,
    observed: float | None,
    bound: float,
    what: str,
    *,
    over: str,
    missing: str = "",
    show: Callable[[float], str] = "{:.3g}".format,
) -> Check:
    """The plain check: observed <= bound. A value that is not a number is not decided.

    `over` and `missing` say what helps if it is over the bound, or was not measured; `show` puts a value into words.
    """
    if observed is None or math.isnan(observed):
        return Check(name, None, bound, None, f"{what}: could not be measured.", todo=missing or over)
    passed = observed <= bound
    relation = "is within" if passed else "is over"
    why = f"{what}: {show(observed)} {relation} {show(bound)}."
    return Check(name, observed, bound, passed, why, todo="" if passed else over)


def points(share: float) -> str:
    """A difference of two shares: 1.88 points."""
    return f"{100 * share:.3g} points"


def percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def images(measured: Measurement, policy: Policy) -> Check:
    n = measured.accuracy.total
    if n >= policy.min_images and n > 0:
        return Check("images", n, policy.min_images, True, f"{n} images were measured on.")
    todo = "Add clean images, or give others to measure on with --verify-dir."
    return Check("images", n, policy.min_images, None, f"{n} images are fewer than {policy.min_images}.", todo=todo)


def scan(report: Report) -> Check:
    found, treated = report.scan, report.pruned is not None
    if found.status == "clean":
        return Check("scan", None, None, True, f"No sign of a backdoor. {found.why}".strip())
    if found.status == "backdoored" and report.command == "scan":
        classes = ", ".join(report.contract.classes[k] for k in found.target_classes) or "no single class"
        why = f"A backdoor was found (target: {classes})."
        return Check("scan", None, None, False, why, todo="Run `harden clean`.")
    if found.status == "backdoored" and treated:
        return Check("scan", None, None, True, "A backdoor was found and treated; attack success says how well.")
    if treated and any(a.source == "given" for a in report.final.attack_success):
        return Check("scan", None, None, True, "The trigger was given; attack success says how well it was treated.")
    why = found.why or "The scan could not decide."
    return Check("scan", None, None, None, why, todo="More clean images, or another --method, may decide it.")


def findings(report: Report, policy: Policy) -> Check:
    worst = max((SEVERITIES.index(f.severity) for f in report.source.findings), default=0)
    bound = SEVERITIES.index(policy.max_finding_severity)
    rules = sorted({f.rule for f in report.source.findings if SEVERITIES.index(f.severity) > bound})
    if rules:
        why = f"The file has findings over {policy.max_finding_severity!r}: {', '.join(rules)}."
        todo = "Look at them with `harden inspect`, and ask for the weights as safetensors."
        return Check("findings", worst, bound, False, why, todo=todo)
    return Check(
        "findings", worst, bound, True, f"Nothing about the file is worse than {policy.max_finding_severity!r}."
    )


def accuracy_drop(before: Measurement, after: Measurement, policy: Policy, kind: str = "fp32") -> Check:
    name, was, now = of_kind("accuracy-drop", kind), before.accuracy, after.accuracy
    if now.total != was.total:
        return _incomparable(name, was.total, now.total, policy.max_accuracy_drop)
    over = "More clean images to repair with help most." if kind == "fp32" else f"Leave {kind} out of --kinds."
    what = f"Accuracy {was} -> {now}"
    return at_most(name, dropped(was, now), policy.max_accuracy_drop, what, over=over, show=points)


def dropped(before: Rate, after: Rate) -> float:
    """Of counts, so that a drop of exactly the bound is not lost to rounding."""
    return (before.hits - after.hits) / before.total if before.total else math.nan


def of_kind(name: str, kind: str) -> str:
    """The name of a check on a file; that of the fp32 file needs no addition."""
    return name if kind == "fp32" else f"{name}/{kind}"


def class_accuracy_drop(report: Report, policy: Policy) -> Check:
    name, bound = "class-accuracy-drop", policy.max_class_accuracy_drop
    assert bound is not None
    pairs = list(zip(report.contract.classes, report.before.per_class, report.final.per_class, strict=True))
    for _, before, after in pairs:
        if before.total != after.total:
            return _incomparable(name, before.total, after.total, bound)
    drops = [((b.hits - a.hits) / b.total, label) for label, b, a in pairs if b.total]
    drop, label = max(drops, default=(math.nan, "none"))
    over = "Add clean images of that class."
    return at_most(name, drop, bound, f"Worst class ({label})", over=over, show=points)


def _incomparable(name: str, before: int, after: int, bound: float) -> Check:
    why = f"Before, {before} images were measured, afterwards {after}: they cannot be compared."
    return Check(name, None, bound, None, why, todo="Run `harden clean` again, on images that stay as they are.")


def attack_successes(measured: Measurement, policy: Policy, kind: str = "fp32") -> Iterator[Check]:
    for attack in measured.attack_success:
        bound = _bound(attack, policy)
        if bound is not None:
            yield attack_success(attack, bound, policy, kind)


def attack_success(attack: AttackResult, bound: float, policy: Policy, kind: str = "fp32") -> Check:
    """Three answers: within for certain, over, and too few images to tell."""
    name, asr = of_kind(f"attack-success/{attack.source}/{attack.name}", kind), attack.asr
    if not asr.total:
        why = "The trigger could be put on no image of another class."
        return Check(name, None, bound, None, why, todo="Verify on images of other classes than the target.")
    upper = asr.interval()[1]
    observed = upper if policy.attack_success_by == "upper" else asr.value
    seen = f"{asr.hits} of {asr.total} triggered images succeed"
    if observed <= bound:
        within = f", at most {100 * upper:.1f} % with 95 % confidence" if policy.attack_success_by == "upper" else ""
        return Check(name, observed, bound, True, f"{seen}{within}.")
    if asr.value > bound:
        over = "Try another --method, or more clean images."
        return Check(name, observed, bound, False, f"{seen}: more than {100 * bound:g} %.", todo=over)
    why = f"{seen}, which still allows {100 * upper:.1f} %; the bound is {100 * bound:g} %."
    return Check(name, observed, bound, None, why, todo="Verify on more images: --verify-dir.")


def exported(report: Report, policy: Policy) -> Iterator[Check]:
    export = report.export
    if export is None:
        why = "No file was exported."
        yield Check("onnx-parity", None, policy.max_parity_error, None, why, todo="Run `harden clean` again.")
        return
    what, over = "Relative difference between the file and the network", "Report it: the exporter changed the network."
    check = at_most("onnx-parity", export.parity.max_relative, policy.max_parity_error, what, over=over)
    agreed, least = export.parity.argmax_agreement, export.parity.least_agreement
    if check.passed and least is not None and agreed.value < least:
        why = f"Same class on {agreed.hits} of {agreed.total} images; at least {100 * least:g} % have to get it."
        check = replace(check, passed=False, why=why, todo=over)
    yield check
    if policy.max_latency_ratio is not None:
        speed = next(
            (s for s in export.latency if (s.name, s.kind, s.batch, s.threads) == ("hardened", "fp32", 1, 1)), None
        )
        ratio = 1 / speed.speedup if speed and speed.speedup > 0 else None
        what, over = "Time, hardened over original", "Cut layers to the widths that your device likes: --align."
        yield at_most("latency", ratio, policy.max_latency_ratio, what, over=over, missing="Leave out --no-latency.")
    if policy.max_bytes is not None:
        largest = max((file.bytes for file in export.files), default=None)
        what, over = "The largest file", "Export int8, or cut more."
        yield at_most("size", largest, policy.max_bytes, what, over=over, show=lambda n: size(int(n)))
    for variant in export.variants:
        yield parity(variant)
        yield accuracy_drop(report.before, variant.measured, policy, variant.kind)
        yield from attack_successes(variant.measured, policy, variant.kind)
    if policy.max_int8_drop is not None:
        yield int8_drop(export, policy.max_int8_drop)


def parity(variant: Variant) -> Check:
    """A file of another kind against the network, by the tolerance of its kind."""
    found, name = variant.parity, of_kind("onnx-parity", variant.kind)
    if found.tolerance is None or found.least_agreement is None:
        why = "The report does not say what such a file may differ by."
        return Check(name, found.max_relative, None, None, why, todo="Run `harden clean` again.")
    agreed = found.argmax_agreement
    if math.isnan(found.max_relative) or not agreed.total:
        why = "The file and the network: could not be compared."
        return Check(name, None, found.tolerance, None, why, todo=f"Leave {variant.kind} out of --kinds.")
    close = found.max_relative <= found.tolerance and agreed.value >= found.least_agreement
    why = (
        f"Relative difference {found.max_relative:.3g} (at most {found.tolerance:g}), same class on {agreed.hits} of "
        f"{agreed.total} images (at least {100 * found.least_agreement:g} %): {found.reason}."
    )
    todo = "" if close else f"Leave {variant.kind} out of --kinds."
    return Check(name, found.max_relative, found.tolerance, close, why, todo=todo)


def int8_drop(export: Exported, bound: float) -> Check:
    """What rounding costs beyond what cutting did."""
    name = "int8-accuracy-drop"
    variant = next((v for v in export.variants if v.kind == "int8"), None)
    if variant is not None:
        before, after = export.measured.accuracy, variant.measured.accuracy
        if before.total != after.total:
            return _incomparable(name, before.total, after.total, bound)
        return at_most(
            name,
            dropped(before, after),
            bound,
            f"Accuracy, fp32 {before} -> int8 {after}",
            over="Leave int8 out of --kinds.",
            show=points,
        )
    held = next((w for w in export.withheld if w.kind == "int8"), None)
    if held is not None:
        return Check(name, None, bound, True, f"No int8 file ships: {held.reason}")
    todo = "Ask for one: --kinds fp32,int8."
    return Check(name, None, bound, None, "No int8 file was made in this run.", todo=todo)


def filters_removed(report: Report, bound: float) -> Check:
    cut = report.pruned
    share = 0.0 if cut is None else cut.filters_removed / cut.filters_total if cut.filters_total else math.nan
    what, over = "Share of all filters", "Try another --method."
    return at_most("filters-removed", share, bound, what, over=over, show=percent)


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
