"""TSBD: set the weights to zero that clean unlearning changes most, then fine-tune with care."""

from __future__ import annotations

from harden.repair.train import Schedule
from harden.repair.tsbd import ZeroAndTune
from harden.repair.unlearn import Unlearn
from harden.triggers.nothing import Nothing
from harden.types import Method


def tsbd(
    *,
    epochs: int = 20,
    rate: float = 0.01,
    unlearn_rate: float = 1e-4,
    weights: float = 0.7,
    max_drop: float = 0.2,
) -> Method:
    """As published, but for the share of filters: the published loop logs the true trigger's success for each.

    Here the split for choosing decides, by accuracy alone. Fewer images than published make as many steps.
    """
    return Method(
        "tsbd",
        "zeroes the weights that clean unlearning changes most, and fine-tunes",
        recover=Nothing(),
        repair=ZeroAndTune(
            Unlearn(Schedule(epochs=epochs, least_steps=200, rate=unlearn_rate, clip=20.0), until=0.1),
            Schedule(epochs=epochs, least_steps=4 * epochs, rate=rate),
            weights=weights,
            max_drop=max_drop,
        ),
        paper="Lin et al., Unveiling and Mitigating Backdoor Vulnerabilities based on Unlearning Weight Changes and "
        "Backdoor Activeness, NeurIPS 2024",
        baseline=True,
    )
