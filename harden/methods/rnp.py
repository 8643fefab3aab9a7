"""RNP: unlearn clean images, let a mask recover them, prune what did not help."""

from __future__ import annotations

from harden.pruning.rnp import UnlearnThenRecover
from harden.repair.train import Schedule
from harden.repair.unlearn import Unlearn
from harden.triggers.nothing import Nothing
from harden.types import Method


def rnp(
    *,
    unlearn_rate: float = 0.01,
    recover_rate: float = 0.2,
    epochs: int = 20,
    until: float = 0.2,
    max_drop: float = 0.1,
) -> Method:
    """As published, but for the threshold: benchmarks choose it on test images, here the split for choosing does, and
    allows it the tenth of accuracy that they allow (and that `anp` and `fine-pruning` have here).

    The gradient is really clipped (the published code clips before it exists); NaN starts again at a tenth of the
    rate; fewer than 512 images make at least the 80 steps that the published 500 make.
    """
    steps = 4 * epochs
    return Method(
        "rnp",
        "prunes the filters that do not help to recover from clean unlearning",
        recover=Nothing(),
        prune=UnlearnThenRecover(
            Unlearn(Schedule(epochs=epochs, least_steps=steps, rate=unlearn_rate, clip=20.0), until),
            Schedule(epochs=epochs, least_steps=steps, rate=recover_rate, weight_decay=0.0),
            max_drop=max_drop,
        ),
        paper="Li et al., Reconstructive Neuron Pruning for Backdoor Defense, ICML 2023",
        baseline=True,
    )
