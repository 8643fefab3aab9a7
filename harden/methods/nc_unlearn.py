"""Neural Cleanse: invert a patch for every class, unlearn those that are strangely small."""

from __future__ import annotations

from harden.repair.stamped import Stamped
from harden.repair.train import Schedule
from harden.triggers.patch import Patch
from harden.types import Method


def nc_unlearn(
    *, steps: int = 1000, epochs: int = 100, rate: float = 0.01, batch: int = 256, share: float = 0.2
) -> Method:
    """Inversion as published; the unlearning as in BackdoorBench. No class flagged: the model stays as it is."""
    return Method(
        "nc-unlearn",
        "inverts patches and relearns the labels of stamped images",
        recover=Patch(steps=steps),
        repair=Stamped(Schedule(epochs=epochs, batch=batch, rate=rate, shape="cosine"), share),
        paper="Wang et al., Neural Cleanse, IEEE S&P 2019",
        baseline=True,
    )
