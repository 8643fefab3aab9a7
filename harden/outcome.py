"""What a finished run says, as values that can be written down and read again: no tensors, no modules, no open files.

The names are those of report.json (schema 1), so that the writer and the reader of it have nothing to translate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harden.types import (
    ClassEvidence,
    Contract,
    Cost,
    Filter,
    Finding,
    LayerWidth,
    Measurement,
    Rate,
    Refusal,
    Round,
    Source,
    Status,
    TriggerSource,
    Verdict,
)

SCHEMA = 1


@dataclass(frozen=True)
class Scan:
    """What recovery says about the suspect, before anything was changed."""

    status: Status
    target_classes: tuple[int, ...]
    evidence: tuple[ClassEvidence, ...]
    why: str = ""


@dataclass(frozen=True)
class Cut:
    """What was taken out of the network, and what stayed in it and why."""

    filters_removed: int
    filters_masked: int
    filters_total: int
    layers: tuple[LayerWidth, ...] = ()
    removed: tuple[Filter, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    rounds: tuple[Round, ...] = ()
    stopped_because: str = ""


@dataclass(frozen=True)
class ShippedFile:
    """A file in the run folder."""

    path: str
    """Relative to the run folder."""
    kind: str
    """fp32, fp16, int8: an ONNX file of that precision."""
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Parity:
    """The file in ONNX Runtime against the module it came from, on all verify images."""

    max_abs: float
    max_relative: float
    """Of the largest logit: what the policy bounds."""
    argmax_agreement: Rate


@dataclass(frozen=True)
class Speed:
    """One file at one batch size and number of threads."""

    name: str
    """original or hardened."""
    batch: int
    threads: int
    median_ms: float
    p95_ms: float
    speedup: float
    """Against the original; over 1 is faster."""
    speedup_low: float
    speedup_high: float


@dataclass(frozen=True)
class Exported:
    """The ONNX file and what was measured on it, not on the module it came from."""

    opset: int
    files: tuple[ShippedFile, ...]
    parity: Parity
    measured: Measurement
    latency: tuple[Speed, ...] = ()


@dataclass(frozen=True)
class Picture:
    """One image without and with a trigger, and what the model said to it before and after."""

    trigger: str
    source: TriggerSource
    image: str
    """Name of the clean image."""
    clean: str
    """Paths relative to the run folder."""
    triggered: str
    difference: str
    """What the trigger changes, made visible."""
    truth: int
    said_before: int
    said_after: int


@dataclass(frozen=True)
class Report:
    """One run, from the file that came to the verdict."""

    command: str
    """clean or scan."""
    created: str
    """ISO 8601, UTC."""
    harden_version: str
    seed: int
    seconds: Mapping[str, float]
    """How long each stage took."""
    cost: Cost
    source: Source
    contract: Contract
    scan: Scan
    before: Measurement
    verdict: Verdict
    pruned: Cut | None = None
    """None where nothing was changed."""
    after: Measurement | None = None
    export: Exported | None = None
    data: tuple[Finding, ...] = ()
    """What was noticed about the images."""
    pictures: tuple[Picture, ...] = ()
    repair: Mapping[str, Any] = field(default_factory=dict)
    """What the repair says it did."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Every setting that was in force."""
    versions: Mapping[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def final(self) -> Measurement:
        """Of what would ship: the ONNX file if there is one, else the module, else the suspect itself."""
        if self.export is not None:
            return self.export.measured
        return self.after or self.before
