"""What a finished run says, as values that can be written down and read again: no tensors, no modules, no open files.

The names are those of report.json (schema 1), so that the writer and the reader of it have nothing to translate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harden.types import (
    Budgeted,
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
QUARANTINE = "quarantine"
"""The folder in a run's own for files that did not pass."""


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
    budget: Budgeted | None = None
    """What the file was to reach, if anybody asked."""


@dataclass(frozen=True)
class ShippedFile:
    """A file in the run folder."""

    path: str
    """Relative to the run folder."""
    kind: str
    """fp32, fp16, int8: an ONNX file of that precision; pt2: a torch.export program."""
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Parity:
    """The file, as it is run, against the module it came from, on all verify images."""

    max_abs: float
    max_relative: float
    """Of the largest logit: what the policy bounds."""
    argmax_agreement: Rate
    mean_abs: float | None = None
    mean_relative: float | None = None
    worst_image: str = ""
    """Where the largest difference was."""
    batch_sizes: tuple[int, ...] = ()
    """In which every image went through the file."""
    tolerance: float | None = None
    """What a file of this kind may differ by, of the largest logit."""
    least_agreement: float | None = None
    """Share of the images that have to get the same class."""
    reason: str = ""
    """Why so much."""


@dataclass(frozen=True)
class Speed:
    """One file at one batch size and number of threads."""

    name: str
    """original, masked (the original with the guilty filters switched off, none cut out) or hardened."""
    batch: int
    threads: int
    """0: as many as ONNX Runtime takes by itself."""
    median_ms: float
    p95_ms: float
    speedup: float
    """Against the original; over 1 is faster."""
    speedup_low: float
    speedup_high: float
    kind: str = "fp32"
    p5_ms: float | None = None


@dataclass(frozen=True)
class Variant:
    """A file of another kind than fp32, measured for itself: rounding may cost accuracy and wake a backdoor."""

    kind: str
    parity: Parity
    measured: Measurement
    note: str = ""
    """What whoever deploys it should know."""


@dataclass(frozen=True)
class Withheld:
    """A kind that was asked for and not written."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Exported:
    """The ONNX file and what was measured on it, not on the module it came from."""

    opset: int
    files: tuple[ShippedFile, ...]
    parity: Parity
    measured: Measurement
    latency: tuple[Speed, ...] = ()
    variants: tuple[Variant, ...] = ()
    """The files of other kinds."""
    withheld: tuple[Withheld, ...] = ()
    provider: str = "cpu"
    """Of ONNX Runtime: what the files were run on."""


@dataclass(frozen=True)
class Portion:
    """One of the disjoint parts of the clean images."""

    name: str
    """tune, choose or verify."""
    images: int
    sha256: str
    """Of names, labels and pixels as they were read."""


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
    splits: tuple[Portion, ...] = ()
    """The images that all of this was done with."""
    schema: int = SCHEMA

    @property
    def final(self) -> Measurement:
        """Of what would ship: the ONNX file if there is one, else the module, else the suspect itself."""
        if self.export is not None:
            return self.export.measured
        return self.after or self.before
