"""Rows as tables: results.csv and results.json with every cell, results.md with means and worst cases."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harden.bench.row import Row
from harden.types import Rate

Values = Sequence[float | None]


def write_tables(rows: Sequence[Row], out: Path) -> None:
    """All three files; each is written beside its place and renamed."""
    texts = {
        "results.csv": as_csv(rows),
        "results.json": json.dumps({"schema": 1, "rows": [asdict(row) for row in rows]}, indent=1),
        "results.md": as_markdown(rows),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        draft = out / f".{name}"
        draft.write_text(text, encoding="utf-8", newline="")
        draft.replace(out / name)


def flat(row: Row) -> dict[str, Any]:
    """One line of the CSV: rates in percent, as far as the cell got."""
    before, after = row.before, row.after
    return {
        "model": row.cell.model,
        "method": row.cell.method,
        "clean_per_class": row.cell.clean_per_class,
        "seed": row.cell.seed,
        "backdoored": row.backdoored,
        "target": row.target,
        "acc_before": _percent(before.accuracy if before else None),
        "acc_after": _percent(after.accuracy if after else None),
        "acc_drop": None if row.drop is None else round(100 * row.drop, 2),
        "worst_class_after": round(100 * after.worst_class, 2) if after else None,
        "asr_before": _percent(before.asr if before else None),
        "asr_after": _percent(after.asr if after else None),
        "ra_before": _percent(before.recovered if before else None),
        "ra_after": _percent(after.recovered if after else None),
        "der": None if row.der is None else round(100 * row.der, 2),
        "scan_status": row.scan_status if row.scanned else "",
        "scan_targets": " ".join(map(str, row.scan_targets)),
        "scan_right": row.scan_right if row.scanned else None,
        "filters_removed": row.filters_removed,
        "filters_masked": row.filters_masked,
        "filters_total": row.filters_total,
        "parameters_removed": before.parameters - after.parameters if before and after else None,
        "macs_removed": before.macs - after.macs if before and after else None,
        "seconds": row.seconds,
        "forward_images": row.forward_images,
        "backward_images": row.backward_images,
        "peak_memory_mb": row.peak_memory_mb,
        "error": row.error,
    }


def as_csv(rows: Sequence[Row]) -> str:
    """Every cell, one line each."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(flat(rows[0])))
        writer.writeheader()
        writer.writerows(map(flat, rows))
    return text.getvalue()


def as_markdown(rows: Sequence[Row]) -> str:
    """Means and worst cases of each method, then each model by itself; what failed comes last."""
    parts = []
    for budget in sorted({row.cell.clean_per_class for row in rows}):
        mine = [row for row in rows if row.cell.clean_per_class == budget]
        parts += [f"## {budget} clean images per class\n", _overview(mine)]
        parts += ["### Model by model (means over the seeds)\n", _by_model(mine)]
    failed = [row for row in rows if row.error]
    if failed:
        parts.append("## Failed\n")
        parts.append(
            "\n".join(
                f"- {row.cell.model}, {row.cell.method}, {row.cell.clean_per_class} per class, seed {row.cell.seed}: "
                f"{row.error.splitlines()[0]}"
                for row in failed
            )
        )
    return "\n".join(parts) + "\n"


def _overview(rows: Sequence[Row]) -> str:
    """Drops and rates in percentage points; RA as a share of clean accuracy before."""
    lines = [
        "| method | cells | ASR mean | ASR worst | ACC drop mean | ACC drop worst | RA/ACC mean | DER mean | "
        "control drop mean | control drop worst | scan right | filters removed | seconds | images fwd / bwd |",
        "|" + "---|" * 14,
    ]
    for method in _in_order(row.cell.method for row in rows):
        mine = [row for row in rows if row.cell.method == method]
        done = [row for row in mine if not row.error]
        bad, controls = [r for r in done if r.backdoored], [r for r in done if not r.backdoored]
        asr = [_value(r.after.asr) for r in bad if r.after]
        ra = [_share(r) for r in bad]
        scanned = [r for r in done if r.scanned]
        cells = [
            f"`{method}`",
            f"{len(done)}" + (f" ({len(mine) - len(done)} failed)" if len(done) < len(mine) else ""),
            *(_hundredfold(_mean(asr)), _hundredfold(_most(asr))),
            *(_hundredfold(_mean([r.drop for r in bad])), _hundredfold(_most([r.drop for r in bad]))),
            *(_hundredfold(_mean(ra)), _hundredfold(_mean([r.der for r in bad]))),
            *(_hundredfold(_mean([r.drop for r in controls])), _hundredfold(_most([r.drop for r in controls]))),
            f"{sum(r.scan_right for r in scanned)}/{len(scanned)}" if scanned else "-",
            _number(_mean([r.filters_removed for r in done]), ".1f"),
            _number(_mean([r.seconds for r in done]), ".1f"),
            f"{_number(_mean([r.forward_images for r in done]), '.0f')} / "
            f"{_number(_mean([r.backward_images for r in done]), '.0f')}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _by_model(rows: Sequence[Row]) -> str:
    """ACC / ASR / RA after, for each method and model."""
    models = _in_order(row.cell.model for row in rows)
    lines = ["| ACC / ASR / RA | " + " | ".join(models) + " |", "|" + "---|" * (len(models) + 1)]

    def triple(mine: Sequence[Row], moment: str) -> str:
        found = [n for row in mine if (n := getattr(row, moment)) is not None]
        if not found:
            return "-"
        rates: tuple[Callable[[Any], Rate | None], ...] = (
            lambda n: n.accuracy,
            lambda n: n.asr,
            lambda n: n.recovered,
        )
        return " / ".join(_hundredfold(_mean([_value(rate(n)) for n in found])) for rate in rates)

    before = [triple([r for r in rows if r.cell.model == m], "before") for m in models]
    lines.append("| *before* | " + " | ".join(before) + " |")
    for method in _in_order(row.cell.method for row in rows):
        cells = [triple([r for r in rows if (r.cell.model, r.cell.method) == (m, method)], "after") for m in models]
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _share(row: Row) -> float | None:
    """RA after, as a share of the clean accuracy before."""
    if not (row.before and row.after and row.after.recovered):
        return None
    return row.after.recovered.value / max(row.before.accuracy.value, 1e-9)


def _in_order(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _value(rate: Rate | None) -> float | None:
    return None if rate is None else rate.value


def _percent(rate: Rate | None) -> float | None:
    return None if rate is None else round(100 * rate.value, 2)


def _known(values: Values) -> list[float]:
    return [v for v in values if v is not None and not math.isnan(v)]


def _mean(values: Values) -> float | None:
    known = _known(values)
    return math.fsum(known) / len(known) if known else None


def _most(values: Values) -> float | None:
    return max(_known(values), default=None)


def _hundredfold(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:z.1f}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
