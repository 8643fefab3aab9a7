"""The report as one page: no script, no network, every picture inside it; whatever came with the model is escaped."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from harden import toml
from harden.outcome import Picture, Report
from harden.reports import words
from harden.reports.charts import pruning_curve, speeds
from harden.reports.markdown import short
from harden.reports.records import encode
from harden.types import Rate

TEMPLATE = Path(__file__).with_name("report.html.j2")
PICTURE_BYTES = 1_500_000
"""Together; above it they are made smaller, so that the page stays under 3 MB."""
SMALL_SIDE = 128
MOST_ROWS = 100
"""Of a long table; what is left out stands in report.json."""
MOST_CLASSES = 40
"""In the open; the numbers of all of them are folded below."""


@dataclass(frozen=True)
class Tile:
    """One figure of the first screen."""

    name: str
    now: str
    note: str = ""


def html(report: Report, folder: Path) -> str:
    """The page; pictures are read from the run's folder."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    classes, cut = report.contract.classes, report.pruned
    final = report.final
    per_class = list(zip(classes, report.before.per_class, final.per_class, strict=True))
    page: str = template.render(
        r=report,
        words=words,
        short=short,
        most=MOST_ROWS,
        cleaned=report.command == "clean",
        created=report.created[:16].replace("T", " ") + " UTC",
        method=report.settings.get("method", {}).get("name", "unknown"),
        held=[check for check in report.verdict.checks if check.passed is not True],
        ships=_ships(report),
        tiles=tiles(report),
        rows=words.rows(report),
        final_images=final.accuracy.total,
        shots=_shots(report, folder),
        evidence=sorted(report.scan.evidence, key=lambda e: e.threshold - e.score),
        class_name=words.class_name,
        curve=pruning_curve(cut) if cut else None,
        rounds=cut.rounds if cut else (),
        speeds=speeds(report.export.latency) if report.export else (),
        per_class=per_class,
        shown_classes=_worst(per_class),
        findings=[*report.source.findings, *report.data],
        about=_about(report),
        settings=_settings(report),
    )
    return page


def _ships(report: Report) -> str:
    """What to take, or not to take, from the run's folder."""
    if report.export is None:
        return ""
    files = ", ".join(f"{file.path} ({words.size(file.bytes)})" for file in report.export.files)
    return f"To ship: {files}." if report.verdict.status == "pass" else f"Not to be shipped: {files}."


def tiles(report: Report) -> list[Tile]:
    """What a reader should know who reads nothing else: what was found, what became of it, what it cost."""
    before, final, done, scan = report.before, report.final, report.command == "clean", report.scan
    targets = ", ".join(report.contract.classes[k] for k in scan.target_classes)
    seen = {"backdoored": "found", "clean": "no sign of one", "inconclusive": "not decided"}[scan.status]
    found = [Tile("Backdoor", seen, f"leads to {targets}" if targets else "")]
    worst = max(before.attack_success, key=lambda a: a.asr.value if a.asr.total else -1, default=None)
    if worst is not None:
        now = final.attack_success[before.attack_success.index(worst)] if done else worst
        was = f"was {worst.asr}; " if done else ""
        found.append(Tile("Attack success", str(now.asr), f"{was}{worst.name} ({worst.source})"))
        if done:
            right = now.recovered_accuracy
            found.append(Tile("Right in spite of it", str(right), f"was {worst.recovered_accuracy}; true class"))
    was = f"was {before.accuracy}; " if done else ""
    found.append(Tile("Accuracy", str(final.accuracy), f"{was}{final.accuracy.total} images"))
    if report.pruned is not None:
        cut = report.pruned
        masked = f", {cut.filters_masked} switched off" if cut.filters_masked else ""
        found.append(Tile("Filters removed", f"{cut.filters_removed} of {cut.filters_total}", masked.lstrip(", ")))
    network = report.after
    if network is not None:
        now_, was_ = words.number(network.parameters), words.number(before.parameters)
        found.append(Tile("Parameters", now_, f"was {was_}; {words.change(before.parameters, network.parameters)}"))
    speed = (
        [s for s in report.export.latency if (s.name, s.kind, s.batch) == ("hardened", "fp32", 1)]
        if report.export
        else []
    )
    if speed:
        found.append(
            Tile("Speed", f"{speed[0].speedup:.2f} ×", f"{speed[0].median_ms:.2f} ms an image; 1 is as before")
        )
    images = report.cost.forward_images + report.cost.backward_images
    found.append(Tile("This run took", words.duration(sum(report.seconds.values())), f"{words.number(images)} images"))
    return found


def _worst(entries: list[tuple[str, Rate, Rate]]) -> list[tuple[str, Rate, Rate]]:
    """The classes that lost most, or all of them in their own order where they are few."""
    if len(entries) <= MOST_CLASSES:
        return entries

    def badness(entry: tuple[str, Rate, Rate]) -> tuple[float, float]:
        before, after = entry[1], entry[2]
        return (after.value - before.value, after.value) if before.total and after.total else (2.0, 2.0)

    return sorted(entries, key=badness)[:MOST_CLASSES]


def _shots(report: Report, folder: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    paths = [folder / path for p in report.pictures for path in (p.clean, p.triggered, p.difference)]
    shrink = sum(path.stat().st_size for path in paths if path.is_file()) > PICTURE_BYTES
    found = []
    for (name, source), pictures in groupby(report.pictures, key=lambda p: (p.trigger, p.source)):
        found.append((f"{name} ({source})", [_figure(p, report, folder, shrink) for p in pictures]))
    return found


def _figure(picture: Picture, report: Report, folder: Path, shrink: bool) -> dict[str, Any]:
    classes = report.contract.classes
    named = (("without", picture.clean), ("with", picture.triggered), ("difference", picture.difference))
    return {
        "name": picture.image,
        "images": [(what, data_uri(folder / path, shrink)) for what, path in named if (folder / path).is_file()],
        "truth": classes[picture.truth],
        "before": classes[picture.said_before],
        "after": classes[picture.said_after],
    }


def data_uri(path: Path, shrink: bool) -> str:
    """The picture itself, as an address."""
    data, kind = path.read_bytes(), "png"
    if shrink:
        from PIL import Image

        buffer = io.BytesIO()
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((SMALL_SIDE, SMALL_SIDE))
            small.save(buffer, "JPEG", quality=80)
        data, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _about(report: Report) -> list[tuple[str, str]]:
    found = [
        ("file", str(report.source.path)),
        ("format", report.source.format),
        ("sha256", report.source.sha256),
        ("size", words.size(report.source.size)),
        ("seed", str(report.seed)),
        ("images sent forward", str(report.cost.forward_images)),
        ("images sent backward", str(report.cost.backward_images)),
    ]
    found += [(f"version of {name}", version) for name, version in report.versions.items()]
    found += [(f"seconds: {stage}", f"{seconds:.1f}") for stage, seconds in report.seconds.items()]
    return found


def _settings(report: Report) -> str:
    return toml.dumps(encode(report.settings))
