"""How fast each of several files is, measured so that the comparison is fair though the machine is not quiet.

In every round each file runs once, in an order drawn anew, so that whatever disturbs the machine disturbs all of them.
One thread on a CPU is timed by that thread's own processor time, which leaves out the while that others had the core;
several threads, and other devices, are timed by the clock on the wall.

    t[m, r]    milliseconds of file m in round r; the first file is the baseline 0
    speedup    median_r t[0, r] / median_r t[m, r]      2.0: twice as fast as the baseline
    interval   its 2.5 % and 97.5 % quantile when whole rounds are drawn again with replacement
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harden_export.files import ExportError, Kind
from harden_export.runtime import OnnxModel

RESAMPLES = 1000
WARM_UP = 3
"""The first runs lay out memory and choose kernels."""


@dataclass(frozen=True)
class Latency:
    """One file at one batch size and number of threads."""

    name: str
    batch: int
    threads: int
    """0: all that ONNX Runtime takes by itself."""
    rounds: int
    median_ms: float
    p5_ms: float
    p95_ms: float
    speedup: float
    """Against the first file that was named; over 1 is faster."""
    speedup_low: float
    speedup_high: float

    @property
    def faster(self) -> bool:
        """Faster than the baseline, beyond what chance explains."""
        return self.speedup_low > 1

    @property
    def slower(self) -> bool:
        """Slower than the baseline, beyond what chance explains."""
        return self.speedup_high < 1


def measure_latency(
    files: Mapping[str, Path] | Mapping[Kind, Path],
    *,
    batches: Sequence[int] = (1, 32),
    threads: Sequence[int] = (1, 0),
    seconds: float = 2.0,
    rounds: tuple[int, int] = (15, 300),
    provider: str = "cpu",
    seed: int = 0,
) -> tuple[Latency, ...]:
    """Every file at every batch size and thread count; the first file is the baseline.

    `seconds` is what one batch size at one thread count may take, all files together, within `rounds` (least, most).
    """
    if not files:
        raise ExportError("no files to measure.")
    rng = np.random.default_rng(seed)
    found = []
    for count in threads:
        models = {name: OnnxModel(path, provider, count) for name, path in files.items()}
        for batch in batches:
            clock = time.thread_time if (provider, count) == ("cpu", 1) else time.perf_counter
            times = _interleaved(list(models.values()), batch, seconds, rounds, rng, clock)  # (M, R)
            found += [_summary(name, batch, count, times, m, rng) for m, name in enumerate(models)]
    return tuple(found)


def _interleaved(
    models: Sequence[OnnxModel],
    batch: int,
    seconds: float,
    rounds: tuple[int, int],
    rng: np.random.Generator,
    clock: Callable[[], float],
) -> NDArray[np.float64]:
    inputs = [example(model, batch, rng) for model in models]
    for model, images in zip(models, inputs, strict=True):
        for _ in range(WARM_UP):
            model(images)
    least, most = rounds
    times: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(times) < least or (len(times) < most and time.perf_counter() < end):
        row = [0.0] * len(models)
        for m in rng.permutation(len(models)):
            start = clock()
            models[m](inputs[m])
            row[m] = 1000 * (clock() - start)
        times.append(row)
    return np.array(times).T


def _summary(
    name: str, batch: int, threads: int, times: NDArray[np.float64], m: int, rng: np.random.Generator
) -> Latency:
    p5, median, p95 = np.percentile(times[m], [5, 50, 95])
    drawn = rng.integers(0, times.shape[1], (RESAMPLES, times.shape[1]))
    speedups = np.median(times[0][drawn], 1) / np.median(times[m][drawn], 1)
    low, high = np.percentile(speedups, [2.5, 97.5])
    return Latency(
        name=name,
        batch=batch,
        threads=threads,
        rounds=times.shape[1],
        median_ms=float(median),
        p5_ms=float(p5),
        p95_ms=float(p95),
        speedup=float(np.median(times[0]) / median),
        speedup_low=float(low),
        speedup_high=float(high),
    )


def example(model: OnnxModel, batch: int, rng: np.random.Generator) -> NDArray[np.generic]:
    """Random images of the shape and type that the model takes."""
    shape = (batch, *model.input_shape[1:])
    if not all(isinstance(n, int) for n in shape):
        raise ExportError(f"{model.path} leaves its image size open {model.input_shape}, so there is nothing to time.")
    if model.input_type is np.uint8:
        return rng.integers(0, 256, shape, dtype=np.uint8)  # type: ignore[arg-type]
    return rng.normal(size=shape).astype(model.input_type)  # type: ignore[arg-type]
