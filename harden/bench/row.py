"""One cell of the table and its result: plain values, written as one JSON file each.

ASR, RA   on triggered test images of other classes than the target    DER = ( max(0, dASR) - max(0, dACC) + 1 ) / 2
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from harden.triggers import nothing
from harden.types import Rate


@dataclass(frozen=True)
class Cell:
    """One run of one method on one model."""

    model: str
    method: str
    """NAME, NAME:given (the true trigger is given to it), NAME:prune (as `harden clean --prune`), NAME:epochs=20."""
    clean_per_class: int
    seed: int

    @property
    def file(self) -> Path:
        """Where its result lies below the folder of results."""
        safe = "".join(c if c.isalnum() or c in "-_.=" else "_" for c in self.method)
        return Path("cells") / self.model / f"{safe}-{self.clean_per_class}-{self.seed}.json"


@dataclass(frozen=True)
class Numbers:
    """One network on the test images, with the true trigger where there is one."""

    accuracy: Rate
    asr: Rate | None
    recovered: Rate | None
    worst_class: float
    """Accuracy of the class that fares worst."""
    parameters: int
    macs: int


@dataclass(frozen=True)
class Row:
    """What one cell gave; a cell that failed is a row with its error."""

    cell: Cell
    key: str
    """Hash of all that the result depends on: another key, and the cell is run again."""
    backdoored: bool
    target: int | None
    error: str = ""
    before: Numbers | None = None
    after: Numbers | None = None
    scan_status: str = ""
    scan_targets: tuple[int, ...] = ()
    scan_why: str = ""
    filters_removed: int = 0
    filters_masked: int = 0
    filters_total: int = 0
    seconds: float = 0.0
    """Of the method: loading and measuring are not in it."""
    forward_images: int = 0
    backward_images: int = 0
    peak_memory_mb: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What recovery, search and repair say about themselves."""

    @property
    def drop(self) -> float | None:
        """Accuracy lost, in [-1, 1]."""
        return self.before.accuracy.value - self.after.accuracy.value if self.before and self.after else None

    @property
    def der(self) -> float | None:
        """Defence effectiveness, in [0, 1]; 0.5 is a method that does nothing."""
        if not (self.before and self.after and self.before.asr and self.after.asr) or self.drop is None:
            return None
        return (max(0.0, self.before.asr.value - self.after.asr.value) - max(0.0, self.drop) + 1) / 2

    @property
    def scanned(self) -> bool:
        """Whether it looked for a backdoor at all: many methods do not, nor does one that is given the trigger."""
        return (
            bool(self.scan_status)
            and self.scan_why != nothing.WHY
            and "given" not in re.split("[:,]", self.cell.method)
        )

    @property
    def scan_right(self) -> bool:
        """The verdict was right, and named the target where there is one."""
        if not self.backdoored:
            return self.scan_status == "clean"
        return self.scan_status == "backdoored" and (self.target is None or self.target in self.scan_targets)


def save(row: Row, path: Path) -> None:
    """Written beside its place and renamed: a file that is there is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(asdict(row), indent=1), encoding="utf-8")
    draft.replace(path)


def read(path: Path) -> Row | None:
    """The row of a file; None where there is none, or none that this version can read."""
    try:
        return _row(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _row(raw: dict[str, Any]) -> Row:
    raw = {key: value for key, value in raw.items() if key in {f.name for f in fields(Row)}}
    return Row(
        **{
            **raw,
            "cell": Cell(**raw["cell"]),
            "before": _numbers(raw["before"]),
            "after": _numbers(raw["after"]),
            "scan_targets": tuple(raw["scan_targets"]),
        }
    )


def _numbers(raw: dict[str, Any] | None) -> Numbers | None:
    if raw is None:
        return None
    rates = {key: None if raw[key] is None else Rate(**raw[key]) for key in ("accuracy", "asr", "recovered")}
    return Numbers(**{**raw, **rates})
