"""How far the file is from the module it came from, as data.

    a, b       reference and file logits, (N, K), float64
    scale      max |a| over all images and classes
    absolute   |a - b|
    relative   |a - b| / scale

An absolute limit would fail a sound network whose logits are large (repvgg_a0: 5e-3 apart, 6e-7 relative), and a limit
relative to each logit would fail one whose logits are near 0: the scale is that of the whole answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harden_export.files import ExportError, Kind
from harden_export.runtime import OnnxModel


@dataclass(frozen=True)
class Tolerance:
    """What a kind of file may differ by, and why so much."""

    relative: float
    """Bound on the largest relative difference."""
    agreement: float
    """Least share of images whose top class is the same."""
    reason: str


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(
        1e-4,
        0.999,
        "the same arithmetic in another order: 23 architectures stayed within 2e-6, and a tie may fall either way",
    ),
    "fp16": Tolerance(
        1e-2,
        0.99,
        "half precision keeps 11 bits (5e-4 a step), which add up over the layers: 4e-4 to 6e-4 were measured",
    ),
    "int8": Tolerance(
        0.5,
        0.85,
        "256 steps a tensor change every logit; what counts is the accuracy measured on the file itself, "
        "and this bound only catches a file that answers something else",
    ),
    "pt2": Tolerance(1e-4, 0.999, "the same arithmetic, which torch may do in another order"),
}


@dataclass(frozen=True)
class Parity:
    """Two functions on the same images."""

    images: int
    batch_sizes: tuple[int, ...]
    max_abs: float
    mean_abs: float
    max_relative: float
    mean_relative: float
    agree: int
    """Images whose top class is the same in every batch size."""
    worst_image: str
    """Where the largest difference was."""
    tolerance: Tolerance
    passed: bool
    why: str
    """What was compared with which bound, in a sentence."""


def measure_parity(
    reference: Callable[[NDArray[Any]], NDArray[Any]],
    model: OnnxModel | Callable[[NDArray[Any]], NDArray[Any]],
    images: NDArray[Any],
    names: Sequence[str],
    batch_sizes: Sequence[int] = (1, 7, 32),
    *,
    kind: Kind = "fp32",
    tolerance: Tolerance | None = None,
) -> Parity:
    """Runs every image through both, the file in several batch sizes, the last batch of each being what is left."""
    if len(images) == 0 or len(images) != len(names):
        raise ExportError(f"parity needs images, each with its name; {len(images)} images and {len(names)} names came.")
    bound = tolerance or TOLERANCES[kind]
    a = _in_batches(reference, images, max(batch_sizes))  # (N, K)
    apart = np.zeros(a.shape)  # (N, K): the largest over the batch sizes
    agrees = np.ones(len(a), dtype=bool)
    for size in batch_sizes:
        b = _in_batches(model, images, size)
        if b.shape != a.shape:
            raise ExportError(f"the file answers with logits of shape {b.shape}; the module with {a.shape}.")
        apart = np.maximum(apart, np.where(np.isfinite(b), np.abs(a - b), np.inf))
        agrees &= a.argmax(1) == b.argmax(1)
    scale = float(np.abs(a).max()) or 1.0
    max_abs, mean_abs, agree = float(apart.max()), float(apart.mean()), int(agrees.sum())
    passed = bool(max_abs / scale <= bound.relative and agree / len(a) >= bound.agreement and np.isfinite(a).all())
    return Parity(
        images=len(a),
        batch_sizes=tuple(batch_sizes),
        max_abs=max_abs,
        mean_abs=mean_abs,
        max_relative=max_abs / scale,
        mean_relative=mean_abs / scale,
        agree=agree,
        worst_image=names[int(apart.max(1).argmax())],
        tolerance=bound,
        passed=passed,
        why=f"relative difference {max_abs / scale:.1e} (at most {bound.relative:.0e}), "
        f"same class on {agree} of {len(a)} (at least {100 * bound.agreement:g} %)",
    )


def _in_batches(function: Callable[[NDArray[Any]], NDArray[Any]], images: NDArray[Any], size: int) -> NDArray[Any]:
    parts = [np.asarray(function(images[i : i + size])) for i in range(0, len(images), size)]
    return np.concatenate(parts).astype(np.float64)
