"""The report for a pull request or a step summary: the verdict in the open, the details folded."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harden.outcome import Report
from harden.reports import words

SIGNS = {"passed": "✅", "failed": "❌", "not decided": "❔", "waived": "⚠️"}


def text(value: object) -> str:
    """Text from a model file, harmless in Markdown: names and paths are not the author's own."""
    flat = "".join(c if c.isprintable() else " " for c in " ".join(str(value).split()))
    return re.sub(r"([\\`*_\[\]<|~@&])", r"\\\1", flat)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *[tuple(text(cell) for cell in row) for row in rows]]
    return ["| " + " | ".join(line) + " |" for line in lines]


def fold(title: str, lines: list[str]) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""]


def markdown(report: Report) -> str:
    """All of it."""
    verdict = report.verdict
    sign = {"pass": "✅", "fail": "❌", "inconclusive": "❔"}[verdict.status]
    lines = [f"## {sign} {words.VERDICTS[verdict.status]}", "", f"{text(words.headline(report))}", ""]
    lines += [
        f"{text(report.source.path)} · {text(report.source.format)} · sha256 `{report.source.sha256[:16]}…`",
        "",
    ]
    held = [c for c in verdict.checks if c.passed is not True]
    lines += [f"- {SIGNS[words.mark(c)]} **{text(c.name)}** {text(words.reason(c))}" for c in held]
    lines += [""] if held else []
    head = ("", "before", "after") if report.command == "clean" else ("", "measured")
    rows = [(f"- {row.name}" if row.inner else row.name, row.before.full, row.after.full) for row in words.rows(report)]
    lines += table(head, [row[: len(head)] for row in rows])
    lines += ["", *_details(report)]
    return "\n".join(lines).rstrip() + "\n"


def _details(report: Report) -> list[str]:
    checks = [
        (f"{SIGNS[words.mark(c)]} {words.mark(c)}", c.name, short(c.observed), short(c.bound), words.reason(c))
        for c in report.verdict.checks
    ]
    lines = fold("Checks", table(("", "check", "observed", "bound", "why"), checks))
    scan = [
        (words.class_name(e.label, report.contract.classes), short(e.score), short(e.threshold), e.method)
        for e in report.scan.evidence
    ]
    if scan:
        lines += fold("Scan", [text(report.scan.why), "", *table(("class", "score", "threshold", "method"), scan)])
    if report.export is not None:
        files = [(f.path, f.size, f.accuracy, f.attack_success, f.parity, f.note) for f in words.files(report.export)]
        head = ("file", "size", "accuracy", "attack success", "against the network", "")
        told = [f"- {text(line)}" for line in (*words.withheld(report.export), *words.speeds(report.export))]
        told += [f"- {text(line)}"] if (line := words.budget(report)) else []
        lines += fold("Files", [*table(head, files), "", *told])
    if report.pruned is not None and report.pruned.layers:
        layers = [(layer.name, str(layer.before), str(layer.after)) for layer in report.pruned.layers]
        lines += fold("Layers that lost filters", table(("layer", "before", "after"), layers))
    if report.pruned is not None and report.pruned.refusals:
        kept = [(str(r.filter), r.reason) for r in report.pruned.refusals]
        lines += fold("Filters that stay in the file, switched off", table(("filter", "why"), kept))
    findings = [(f.severity, f.rule, f.message, f.location) for f in (*report.source.findings, *report.data)]
    if findings:
        lines += fold("Findings", table(("severity", "rule", "what", "where"), findings))
    stages = [(stage, f"{seconds:.1f} s") for stage, seconds in report.seconds.items()]
    about = [("seed", str(report.seed)), *report.versions.items(), *stages]
    return lines + fold("Seeds, versions, time", table(("what", ""), about))


def short(value: float | None) -> str:
    """A number for a cell; nothing where there is none."""
    return "" if value is None else f"{value:.4g}"
