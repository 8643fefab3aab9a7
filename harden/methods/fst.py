"""FST: a classifier drawn anew and pushed away from the old one, so that the features move."""

from __future__ import annotations

from harden.repair.feature_shift import FeatureShift
from harden.repair.train import Schedule
from harden.triggers.nothing import Nothing
from harden.types import Method


def fst(*, epochs: int = 10, rate: float = 0.01, batch: int = 128, alpha: float = 0.1) -> Method:
    """As published for ten classes; a lower alpha for many. Few images make at least 8 steps an epoch.

    No linear layer at the end: it refuses and changes nothing.
    """
    return Method(
        "fst",
        "fine-tunes features away from a classifier drawn anew",
        recover=Nothing(),
        repair=FeatureShift(
            Schedule(epochs=epochs, least_steps=8 * epochs, batch=batch, rate=rate, shape="cosine"), alpha
        ),
        paper="Min et al., Towards Stable Backdoor Purification through Feature Shift Tuning, NeurIPS 2023",
        baseline=True,
    )
