"""Fine-pruning: prune the filters that clean images do not use, then fine-tune."""

from __future__ import annotations

from harden.pruning.dormant import Dormant
from harden.repair.fine_tune import FineTune
from harden.repair.train import Schedule
from harden.triggers.nothing import Nothing
from harden.types import Method


def fine_pruning(
    *, epochs: int = 100, rate: float = 0.01, batch: int = 256, step: float = 0.01, max_drop: float = 0.1
) -> Method:
    """As published, but for the number of filters: benchmarks choose it on test images, here the split for choosing."""
    return Method(
        "fine-pruning",
        "prunes the dormant filters of the last convolution, then fine-tunes",
        recover=Nothing(),
        prune=Dormant(step, max_drop),
        repair=FineTune(Schedule(epochs=epochs, batch=batch, rate=rate, shape="cosine")),
        paper="Liu et al., Fine-Pruning, RAID 2018, arXiv 1805.12185",
        baseline=True,
    )
