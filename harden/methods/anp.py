"""ANP: prune the filters that are most easily disturbed."""

from __future__ import annotations

from harden.pruning.anp import AdversarialMask
from harden.repair.train import Schedule
from harden.triggers.nothing import Nothing
from harden.types import Method


def anp(*, steps: int = 2000, rate: float = 0.2, eps: float = 0.4, alpha: float = 0.2, max_drop: float = 0.1) -> Method:
    """As published, but for the threshold: benchmarks choose it on test images, here the split for choosing does.

    And a pruned filter is removed whole, where the published code only sets its batch norm's scale to zero.
    """
    schedule = Schedule(epochs=1, least_steps=steps, batch=128, rate=rate, weight_decay=0.0)
    return Method(
        "anp",
        "prunes the filters most sensitive to noise on their weights",
        recover=Nothing(),
        prune=AdversarialMask(schedule, eps=eps, alpha=alpha, max_drop=max_drop),
        paper="Wu and Wang, Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021",
        baseline=True,
    )
