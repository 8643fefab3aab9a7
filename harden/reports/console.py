"""What a person reads at the end of a run: the verdict, the table, the reasons, the paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from harden.outcome import Report
from harden.reports import words
from harden.types import Check, Finding, Verdict

if TYPE_CHECKING:
    from harden.loading import Inspection
    from harden.verification import Verification

COLOURS = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow"}
MARKS = {"passed": "green", "failed": "red", "not decided": "yellow", "waived": "yellow"}


def plain(value: object) -> str:
    """Text from a model file or a path, without control characters and without markup."""
    return escape("".join(c if c.isprintable() else "�" for c in str(value)))


def grid(*head: str) -> Table:
    return Table(*head, box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")


def show_report(report: Report, console: Console, folder: Path | None = None) -> None:
    """All of a run."""
    console.print()
    console.print(plain(words.headline(report)), style="bold")
    table = grid("", "before", "after") if report.command == "clean" else grid("", "measured")
    for row in words.rows(report):
        cells = f"  {row.name}" if row.inner else row.name, row.before.short, row.after.short
        table.add_row(*(plain(cell) for cell in cells[: len(table.columns)]))
    console.print(table)
    _show_scan(report, console)
    _show_export(report, console)
    _show_findings((*report.source.findings, *report.data), console)
    show_verdict(report.verdict, console)
    if folder is not None:
        shipped = [folder / file.path for file in report.export.files] if report.export else []
        for path in (*shipped, folder / "report.html", folder / "report.json"):
            if path.exists():
                console.print(f"  {plain(path)}", style="dim", soft_wrap=True)


def _show_scan(report: Report, console: Console) -> None:
    if not report.scan.evidence:
        console.print(plain(f"Scan: {words.SCANS[report.scan.status]}. {report.scan.why}"))
        return
    strongest = sorted(report.scan.evidence, key=lambda e: e.threshold - e.score)[:5]
    table = grid("class", "score", "threshold", "found by")
    for e in strongest:
        style = "red" if e.score > e.threshold else ""
        name = words.class_name(e.label, report.contract.classes)
        table.add_row(plain(name), f"{e.score:.3g}", f"{e.threshold:.3g}", plain(e.method), style=style)
    console.print(plain(f"Scan: {words.SCANS[report.scan.status]}. {report.scan.why}"))
    console.print(table)


def _show_export(report: Report, console: Console) -> None:
    if report.export is None:
        return
    export = report.export
    table = grid("file, as it was run", "size", "accuracy", "attack success", "against the network")
    for file in words.files(export):
        table.add_row(
            *(plain(cell) for cell in (file.path, file.size, file.accuracy, file.attack_success, file.parity))
        )
    console.print(table)
    notes = [f"{file.path}: {file.note}" for file in words.files(export) if file.note]
    speeds = [words.speed(s) for s in export.latency if s.name == "hardened" and s.threads == 1]
    told = [line] if (line := words.budget(report)) else []
    for line in (*notes, *words.withheld(export), *speeds, *told):
        console.print(plain(line), soft_wrap=True)


def _show_findings(findings: Sequence[Finding], console: Console) -> None:
    for f in findings:
        if f.severity != "info":
            console.print(f"[yellow]{f.severity}[/] {plain(f.rule)}: {plain(f.message)}")


def show_verdict(verdict: Verdict, console: Console, said: Mapping[str, str] = words.VERDICTS) -> None:
    """Every check, then the word."""
    console.print()
    for check in verdict.checks:
        console.print(_check(check), soft_wrap=True)
    console.print(said[verdict.status], style=COLOURS[verdict.status])


def _check(check: Check) -> Text:
    mark = words.mark(check)
    return Text.assemble(
        (f"{words.SIGNS[mark]} ", MARKS[mark]), Text.from_markup(plain(f"{check.name}: {words.reason(check)}"))
    )


def show_inspection(found: Inspection, console: Console) -> None:
    """What a file is."""
    source = found.source
    console.print(plain(source.path), style="bold", soft_wrap=True)
    console.print(f"  {plain(found.format)}, {words.size(source.size)}")
    console.print(f"  sha256 {source.sha256}", soft_wrap=True)
    guess = " (a guess from the names and shapes)" if found.architecture_is_guess else ""
    console.print(f"  architecture: {plain(found.architecture or 'not known')}{guess}")
    if found.contract is not None:
        c = found.contract
        names = ", ".join(c.classes[:8]) + (" ..." if len(c.classes) > 8 else "")
        console.print(f"  {c.num_classes} classes: {plain(names)}")
        console.print(f"  input {list(c.input_size)}, mean {list(c.mean)}, std {list(c.std)}", markup=False)
    if found.layers:
        table = grid("tensor", "shape", "type")
        for layer in found.layers[:12]:
            table.add_row(plain(layer.name), "x".join(map(str, layer.shape)) or "one number", plain(layer.dtype))
        console.print(table)
        if len(found.layers) > 12:
            console.print(f"  ... and {len(found.layers) - 12} more; --format json lists them all")
    for f in found.findings:
        place = f" ({f.location})" if f.location else ""
        console.print(f"[yellow]{f.severity}[/] {plain(f.rule)}: {plain(f.message + place)}", soft_wrap=True)
    for line in "\n".join(found.remarks).splitlines():
        console.print(plain(line))
    for verb, what in found.uses.items():
        console.print(f"  {verb:<8} {plain(what)}")


def show_verification(found: Verification, console: Console) -> None:
    """What an artefact does."""
    for file in found.files:
        console.print(plain(f"{file.path} ({'ONNX Runtime' if file.kind == 'onnx' else 'torch'})"), style="bold")
        table = grid("", "measured", "95 % interval")
        table.add_row("Accuracy", words.rate(file.measured.accuracy), words.interval(file.measured.accuracy))
        for attack in file.measured.attack_success:
            name = words.attack_name(attack, found.contract.classes)
            table.add_row(plain(f"Attack success: {name}"), words.rate(attack.asr), words.interval(attack.asr))
            recovered = attack.recovered_accuracy
            table.add_row("  true class in spite of it", words.rate(recovered), words.interval(recovered))
        console.print(table)
    _show_findings(found.findings, console)
    if found.accuracy_only:
        show_verdict(found.verdict, console, words.ACCURACY_ONLY)
    else:
        show_verdict(found.verdict, console)
