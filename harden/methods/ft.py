"""Fine-tuning on clean images: the rival that a method has to beat to be worth having."""

from __future__ import annotations

from harden.repair.fine_tune import FineTune
from harden.repair.train import Schedule
from harden.triggers.nothing import Nothing
from harden.types import Method


def ft(*, epochs: int = 100, rate: float = 0.01, batch: int = 256, best: bool = False) -> Method:
    """SGD with momentum and a cosine rate, as in BackdoorBench; `best` keeps the best epoch, not the last."""
    schedule = Schedule(epochs=epochs, batch=batch, rate=rate, shape="cosine")
    return Method(
        "ft",
        "fine-tuning on clean images",
        recover=Nothing(),
        repair=FineTune(schedule, best=best),
        baseline=True,
    )
