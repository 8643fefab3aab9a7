"""How fast and how big a module would be, were it the file that ships: what a search under a budget asks at each step.

Nothing is estimated from counts. Channel counts that are no multiple of 8 make a smaller network slower on CPUs: every
candidate is exported and timed against the original, in turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from harden_export.files import OnnxFile
from harden_export.latency import Latency, measure_latency
from harden_export.onnx_file import export_onnx

ROUNDS = (15, 3000)
"""The least and the most of a timing: a small network would be done with the usual 300 in a quarter of a second, in
which other work on the machine looks like a difference."""


@dataclass(frozen=True)
class Candidate:
    """One module as a file."""

    bytes: int
    latency: Latency

    @property
    def speedup(self) -> float:
        """How many times as fast as the original."""
        return self.latency.speedup

    def reaches(self, *, speedup: float | None = None, max_bytes: int | None = None) -> bool:
        """Whether it keeps to the budgets that were given; the speed-up beyond what chance explains."""
        fast_enough = speedup is None or self.latency.speedup_low >= speedup
        return fast_enough and (max_bytes is None or self.bytes <= max_bytes)


class Stopwatch:
    """Times modules against one original, at one setting."""

    def __init__(
        self,
        original: nn.Module,
        *,
        input_size: tuple[int, int, int],
        batch: int = 1,
        threads: int = 1,
        seconds: float = 1.0,
        provider: str = "cpu",
        opset: int = 20,
    ) -> None:
        self.input_size = input_size
        self.batch = batch
        self.threads = threads
        self.seconds = seconds
        self.provider = provider
        self.opset = opset
        self._folder = TemporaryDirectory()
        self.original = self._export(original, "original")

    def __call__(self, module: nn.Module) -> Candidate:
        """Exports the module and runs it in turns with the original."""
        file = self._export(module, "candidate")
        _, latency = measure_latency(
            {"original": self.original.path, "candidate": file.path},
            batches=(self.batch,),
            threads=(self.threads,),
            seconds=self.seconds,
            rounds=ROUNDS,
            provider=self.provider,
        )
        return Candidate(file.bytes, latency)

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def _export(self, module: nn.Module, name: str) -> OnnxFile:
        path = Path(self._folder.name) / f"{name}.onnx"
        return export_onnx(module, path, input_size=self.input_size, metadata={}, opset=self.opset)
