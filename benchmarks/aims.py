"""Draw by draw, what one method's cells of `harden bench` come to beside what was aimed at.

    python -m benchmarks.aims OUT [METHOD]

OUT is the folder that a bench wrote its cells into. A draw is one number of clean images with one seed; its worst model
counts, where a bench's own table has the worst of all draws.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from harden.bench.row import Row, read

AIMS: Mapping[str, tuple[str, str]] = {
    "ASR, worst": ("4", "8"),
    "ASR, mean": ("1.5", "3"),
    "ACC drop, worst": ("1.5", "3.0"),
    "ACC drop, mean (gains counted as nothing)": ("0.5", "1.2"),
    "RA / ACC, mean": ("93", "88"),
    "filters removed, least": ("more than 0", "more than 0"),
    "controls: ACC drop, worst": ("0.5", "1"),
    "verdicts and targets right": ("all", "all but one"),
    "memory, most": ("1.6 GB", "1.6 GB"),
}
"""What is aimed at with 50 clean images per class, and with 10."""


def main() -> None:
    out, method = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "auto"
    draws: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for file in sorted(out.glob("cells/*/*.json")):
        row = read(file)
        if row is not None and row.cell.method == method and row.before and row.after:
            draws[row.cell.clean_per_class, row.cell.seed].append(row)
    draws = {draw: rows for draw, rows in draws.items() if any(row.backdoored for row in rows)}
    if not draws:
        sys.exit(f"{out} holds no cells of {method} on a backdoored model; it has to be the --out of a harden bench.")
    columns: list[tuple[str, Sequence[str]]] = []
    for per in sorted({per for per, _ in draws}, reverse=True):
        columns.append(("aim", [aims[per < 50] for aims in AIMS.values()]))
        columns += [(f"{per} per class, seed {s}", reached(rows)) for (p, s), rows in sorted(draws.items()) if p == per]
    print(f"| | {' | '.join(title for title, _ in columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for number, name in enumerate(AIMS):
        print(f"| {name} | {' | '.join(cells[number] for _, cells in columns)} |")


def reached(rows: Sequence[Row]) -> list[str]:
    """One draw's figures, in the order of `AIMS`."""
    bad = [row for row in rows if row.backdoored]
    asr = [100 * row.after.asr.value for row in bad if row.after and row.after.asr]
    drops = [100 * row.drop for row in bad if row.drop is not None]
    back = [
        100 * row.after.recovered.value / row.before.accuracy.value
        for row in bad
        if row.before and row.after and row.after.recovered
    ]
    controls = [100 * row.drop for row in rows if not row.backdoored and row.drop is not None]
    return [
        f"{max(asr):.1f}",
        f"{mean(asr):.1f}",
        f"{max(drops):.2f}",
        f"{mean(drops):z.1f} ({mean([max(0.0, drop) for drop in drops]):.1f})",
        f"{mean(back):.1f}",
        str(min(row.filters_removed for row in bad)),
        f"{max(controls):.1f}" if controls else "-",
        f"{sum(row.scan_right for row in rows)} of {len(rows)}",
        f"{max(row.peak_memory_mb for row in rows) / 1000:.2f} GB",
    ]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
