"""How numbers and verdicts are put into words, the same in every form of the report."""

from __future__ import annotations

from harden.outcome import Report
from harden.types import AttackResult, Check, Measurement, Rate

VERDICTS = {
    "pass": "PASS: may ship",
    "fail": "FAIL: must not ship",
    "inconclusive": "INCONCLUSIVE: too little to decide on",
}
ACCURACY_ONLY = {
    "pass": "Accuracy only: nothing was said about backdoors",
    "fail": "FAIL: must not ship. Accuracy only: nothing was said about backdoors",
    "inconclusive": "INCONCLUSIVE: too little to decide on. Accuracy only: nothing was said about backdoors",
}
"""Where nobody asked about attack success, no word may sound as if it had been measured."""
SCANS = {"backdoored": "a backdoor was found", "clean": "no sign of a backdoor", "inconclusive": "could not decide"}


def rate(found: Rate) -> str:
    """97.5 % (468 of 480)."""
    return f"{found} ({found.hits} of {found.total})" if found.total else "not measured"


def interval(found: Rate) -> str:
    """The 95 % interval, in per cent."""
    low, high = found.interval()
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def mark(check: Check) -> str:
    """What became of a check, in one word."""
    if check.waived:
        return "waived"
    return {True: "passed", False: "failed", None: "not decided"}[check.passed]


def attack_name(attack: AttackResult, classes: tuple[str, ...]) -> str:
    """The trigger, where it comes from, and what it makes the model say."""
    target = "any wrong class" if attack.target is None else classes[attack.target]
    return f"{attack.name} ({attack.source}) -> {target}"


def number(count: int) -> str:
    """1 234 567 as 1.23 M."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 10 * size or (count >= size and size > 10**3):
            return f"{count / size:.2f} {unit}"
    return str(count)


def size(count: int) -> str:
    """Bytes as kB or MB."""
    return f"{count / 1e6:.2f} MB" if count >= 10**6 else f"{count / 1e3:.1f} kB"


def change(before: int, after: int) -> str:
    """-31 %."""
    return f"{100 * (after - before) / before:+.0f} %" if before else ""


def headline(report: Report) -> str:
    """One sentence: what was found, and what was done about it."""
    scan, cut = report.scan, report.pruned
    targets = ", ".join(report.contract.classes[k] for k in scan.target_classes)
    found = {
        "backdoored": f"A backdoor was found{f' that leads to {targets}' if targets else ''}",
        "clean": "No sign of a backdoor was found",
        "inconclusive": "The scan could not decide whether there is a backdoor",
    }[scan.status]
    if report.command == "scan":
        return f"{found}."
    if cut is None:
        return f"{found}; nothing was changed."
    masked = f" and {cut.filters_masked} switched off" if cut.filters_masked else ""
    return f"{found}; {cut.filters_removed} of {cut.filters_total} filters were removed{masked}."


def rows(report: Report) -> list[tuple[str, str, str]]:
    """The table before and after: what, before, after (empty where nothing was changed)."""
    before = report.before
    after: Measurement | None = report.final if report.command == "clean" else None
    found = [("Accuracy", rate(before.accuracy), rate(after.accuracy) if after else "")]
    for i, attack in enumerate(before.attack_success):
        name = attack_name(attack, report.contract.classes)
        then = after.attack_success[i] if after else None
        found.append((f"Attack success: {name}", rate(attack.asr), rate(then.asr) if then else ""))
        recovered = rate(then.recovered_accuracy) if then else ""
        found.append(("  true class in spite of it", rate(attack.recovered_accuracy), recovered))
    network = report.after or (report.before if report.command == "clean" else None)
    for name, size in (("Parameters", "parameters"), ("Multiply-accumulates per image", "macs")):
        old = getattr(before, size)
        new = getattr(network, size) if network is not None else None
        found.append((name, number(old), "" if new is None else f"{number(new)} ({change(old, new)})"))
    return found
