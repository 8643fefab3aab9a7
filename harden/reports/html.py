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
from harden.reports.charts import class_bars, pruning_curve
from harden.reports.markdown import short
from harden.reports.records import encode

TEMPLATE = Path(__file__).with_name("report.html.j2")
PICTURE_BYTES = 1_500_000
"""Together; above it they are made smaller, so that the page stays under 3 MB."""
SMALL_SIDE = 128
MOST_EVIDENCE = 30


@dataclass(frozen=True)
class Tile:
    """One figure of the first screen."""

    name: str
    now: str
    before: str = ""
    note: str = ""


def html(report: Report, folder: Path) -> str:
    """The page; pictures are read from the run's folder."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    classes, cut = report.contract.classes, report.pruned
    after = report.final.per_class if report.command == "clean" else None
    evidence = sorted(report.scan.evidence, key=lambda e: e.threshold - e.score)[:MOST_EVIDENCE]
    page: str = template.render(
        r=report,
        words=words,
        short=short,
        method=report.settings.get("method", {}).get("name", "unknown"),
        held=[check for check in report.verdict.checks if check.passed is not True],
        tiles=tiles(report),
        final_images=report.final.accuracy.total,
        shots=_shots(report, folder),
        evidence=evidence,
        name_of=lambda label: classes[label] if label >= 0 else "any",
        curve=pruning_curve(cut.rounds, cut.filters_removed + cut.filters_masked) if cut else None,
        class_chart=class_bars(classes, report.before.per_class, after),
        per_class=list(zip(classes, report.before.per_class, report.final.per_class, strict=True)),
        findings=[*report.source.findings, *report.data],
        about=_about(report),
        settings=_settings(report),
    )
    return page


def tiles(report: Report) -> list[Tile]:
    """What a reader should know who reads nothing else: what was found, what it costs."""
    before, final, done = report.before, report.final, report.command == "clean"
    found = [Tile("Scan", report.scan.status, note=words.SCANS[report.scan.status])]
    worst = max(before.attack_success, key=lambda a: a.asr.value if a.asr.total else -1, default=None)
    if worst is not None:
        now = final.attack_success[before.attack_success.index(worst)] if done else worst
        name = f"{worst.name} ({worst.source})"
        found.append(Tile("Attack success", str(now.asr), str(worst.asr) if done else "", name))
    accuracy = f"{final.accuracy.hits} of {final.accuracy.total} images"
    found.append(Tile("Accuracy", str(final.accuracy), str(before.accuracy) if done else "", accuracy))
    if report.pruned is not None:
        cut = report.pruned
        found.append(Tile("Filters removed", str(cut.filters_removed), note=f"of {cut.filters_total}"))
    network = report.after
    if network is not None:
        change = words.change(before.parameters, network.parameters)
        found.append(Tile("Parameters", words.number(network.parameters), words.number(before.parameters), change))
    return found


def _shots(report: Report, folder: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    paths = [folder / path for p in report.pictures for path in (p.clean, p.triggered, p.difference)]
    shrink = sum(path.stat().st_size for path in paths if path.is_file()) > PICTURE_BYTES
    found = []
    for (name, source), pictures in groupby(report.pictures, key=lambda p: (p.trigger, p.source)):
        found.append((f"{name} ({source})", [_figure(p, report, folder, shrink) for p in pictures]))
    return found


def _figure(picture: Picture, report: Report, folder: Path, shrink: bool) -> dict[str, Any]:
    classes = report.contract.classes
    named = (("clean", picture.clean), ("triggered", picture.triggered), ("difference", picture.difference))
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
