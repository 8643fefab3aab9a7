"""How numbers and verdicts are put into words, the same in every form of the report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harden.outcome import QUARANTINE, Exported, Parity, Report, Speed
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
SIGNS = {"passed": "✓", "failed": "✗", "not decided": "?", "waived": "~"}
"""What became of a check, where colour may be missing."""
EACH = "each to another"
"""Of the search for an attack that makes every class another one, where others have the name of one class."""
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


def reason(check: Check) -> str:
    """Why, what to do next, and whether it is waived: all that is said of a check."""
    waived = f"Waived {check.waived}" if check.waived else ""
    return " ".join(part for part in (check.why, check.todo, waived) if part)


def class_name(label: int, classes: tuple[str, ...]) -> str:
    """Of a line of the scan's evidence; an attack that moves every class on has none of its own."""
    return classes[label] if label >= 0 else EACH


def attack_name(attack: AttackResult, classes: tuple[str, ...]) -> str:
    """The trigger, where it comes from, and what it makes the model say."""
    target = "another class" if attack.target is None else classes[attack.target]
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


def duration(seconds: float) -> str:
    """8 s, 2 min 5 s, 1 h 10 min."""
    if seconds < 1:
        return "under 1 s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = (hours, "h"), (minutes, "min"), (0 if hours else rest, "s")
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


def change(before: int, after: int) -> str:
    """-31 %."""
    return f"{100 * (after - before) / before:+.0f} %" if before else ""


def listed(names: Sequence[str]) -> str:
    """One, two and three."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


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
        return f"{found}.{hurried(report)}"
    if cut is None:
        return f"{found}; nothing was changed.{hurried(report)}"
    masked = f" and {cut.filters_masked} switched off" if cut.filters_masked else ""
    return f"{found}; {cut.filters_removed} of {cut.filters_total} filters were removed{masked}.{hurried(report)}"


def hurried(report: Report) -> str:
    """A sentence, if the time budget was too short for all that there was to do."""
    said = {
        "the search": report.scan.why,
        "the pruning": report.pruned.stopped_because if report.pruned else "",
        "the relearning": str(report.repair.get("stopped_because", "")),
    }
    cut_short = [name for name, why in said.items() if "time budget" in why]
    return f" The time budget ended {listed(cut_short)} early: this is the best so far." if cut_short else ""


@dataclass(frozen=True)
class Cell:
    """One figure, and what stands behind it."""

    value: str = ""
    count: str = ""
    interval: str = ""

    @classmethod
    def of(cls, found: Rate | None) -> Cell:
        """A share with its counts and its interval; empty where there is none."""
        if found is None:
            return cls()
        if not found.total:
            return cls("not measured")
        return cls(str(found), f"{found.hits} of {found.total}", interval(found))

    @property
    def short(self) -> str:
        """97.5 % (468 of 480)."""
        return f"{self.value} ({self.count})" if self.count else self.value

    @property
    def full(self) -> str:
        """97.5 % (468 of 480; 95.7 to 98.6 %)."""
        return f"{self.value} ({self.count}; {self.interval})" if self.interval else self.short

    @property
    def detail(self) -> str:
        """What stands behind the figure, by itself."""
        return f"{self.count}; {self.interval}" if self.interval else self.count


@dataclass(frozen=True)
class Row:
    """One line of the table before and after."""

    name: str
    before: Cell
    after: Cell
    """Empty where nothing was changed."""
    inner: bool = False
    """It belongs to the line above it."""


def rows(report: Report) -> list[Row]:
    """The table before and after."""
    before = report.before
    after: Measurement | None = report.final if report.command == "clean" else None
    found = [Row("Accuracy", Cell.of(before.accuracy), Cell.of(after.accuracy if after else None))]
    for i, attack in enumerate(before.attack_success):
        name = attack_name(attack, report.contract.classes)
        then = after.attack_success[i] if after else None
        found.append(Row(f"Attack success: {name}", Cell.of(attack.asr), Cell.of(then.asr if then else None)))
        recovered = Cell.of(then.recovered_accuracy if then else None)
        found.append(Row("true class in spite of it", Cell.of(attack.recovered_accuracy), recovered, inner=True))
    network = report.after or (report.before if report.command == "clean" else None)
    for name, size in (("Parameters", "parameters"), ("Multiply-accumulates per image", "macs")):
        old = getattr(before, size)
        new = getattr(network, size) if network is not None else None
        now = Cell() if new is None else Cell(number(new), change(old, new))
        found.append(Row(name, Cell(number(old)), now))
    return found


@dataclass(frozen=True)
class File:
    """One of the files that were written, and what was measured on it."""

    path: str
    kind: str
    size: str
    accuracy: str
    attack_success: str
    """The worst, over all triggers; empty where none was measured."""
    parity: str
    note: str


def files(export: Exported) -> list[File]:
    """Every file, each by its own measurements."""
    measured = {"fp32": (export.parity, export.measured, "")}
    measured |= {v.kind: (v.parity, v.measured, v.note) for v in export.variants}
    found = []
    for file in export.files:
        parity, what, note = measured[file.kind]
        asr = [a.asr for a in what.attack_success if a.asr.total]
        worst = rate(max(asr, key=lambda found: found.value)) if asr else ""
        accuracy = rate(what.accuracy)
        found.append(File(file.path, file.kind, size(file.bytes), accuracy, worst, same(parity), note))
    return found


def same(parity: Parity) -> str:
    """How near a file is to the network it was made from."""
    agreed = parity.argmax_agreement
    return f"differs by at most {parity.max_relative:.1e}, same class on {agreed.hits} of {agreed.total} images"


def speed(found: Speed) -> str:
    """Such as: hardened int8, batch 32, all threads: 1.20 ms, 1.50 times as fast as the original (1.40 to 1.60)."""
    low, high = found.speedup_low, found.speedup_high
    return (
        f"{file_name(found)}, {setting(found)}: {found.median_ms:.2f} ms, "
        f"{found.speedup:.2f} times as fast as the original ({low:.2f} to {high:.2f})"
    )


def file_name(found: Speed) -> str:
    """Such as: hardened, hardened int8."""
    return found.name if found.kind == "fp32" else f"{found.name} {found.kind}"


def setting(found: Speed) -> str:
    """Such as: batch 32, all threads."""
    threads = {0: "all threads", 1: "1 thread"}.get(found.threads, f"{found.threads} threads")
    return f"batch {found.batch}, {threads}"


def speeds(export: Exported) -> Iterator[str]:
    """All but the original, which is what they are compared with."""
    return (speed(s) for s in export.latency if (s.name, s.kind) != ("original", "fp32"))


def budget(report: Report) -> str:
    """Which budget ended the search, and what images that it never saw say; empty where there was none."""
    found = report.pruned.budget if report.pruned is not None else None
    if found is None:
        return ""
    before, after = report.before.accuracy, report.final.accuracy
    if not before.total or before.total != after.total:
        return f"Budget {found.ended_by}."
    drop = (before.hits - after.hits) / before.total
    more = f", more than the {100 * found.max_drop:g} allowed" if drop > found.max_drop else ""
    told = f"On the {after.total} images that only report, all of it together cost {100 * drop:.1f} points{more}."
    return f"Budget {found.ended_by}. {told}"


def stays(was: str, now: str, run: Path) -> Iterator[str]:
    """Where the files of a run still lie, although they were judged again and otherwise; nothing where it agrees."""
    if was == "pass" and now != "pass":
        yield f"They passed when the run was made, and gate moves nothing: ship none of the files that lie in {run}."
    elif was != "pass" and now == "pass":
        yield f"They did not pass when the run was made, and gate moves nothing: they stay in {run / QUARANTINE}."
        yield f"To have files where those lie that may ship: harden clean --plan {run / 'plan.toml'} --policy ..."


def withheld(export: Exported) -> Iterator[str]:
    """Kinds that were asked for and not written."""
    return (f"{w.kind} was not written: {w.reason}" for w in export.withheld)
