"""FT-SAM: fine-tuning on clean images with sharpness-aware steps."""

from __future__ import annotations

from harden.repair.fine_tune import FineTune
from harden.repair.train import Schedule
from harden.triggers.nothing import Nothing
from harden.types import Method


def ft_sam(
    *,
    epochs: int = 100,
    rate: float = 0.01,
    batch: int = 256,
    rho: float = 2.0,
    smoothing: float = 0.1,
    best: bool = False,
) -> Method:
    """As published for ten classes; rho = 8 for more. Label smoothing is BackdoorBench's addition."""
    schedule = Schedule(epochs=epochs, batch=batch, rate=rate, shape="cosine")
    return Method(
        "ft-sam",
        "sharpness-aware fine-tuning on clean images",
        recover=Nothing(),
        repair=FineTune(schedule, smoothing=smoothing, rho=rho, best=best),
        paper="Zhu et al., Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization, ICCV 2023",
        baseline=True,
    )
