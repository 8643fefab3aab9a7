"""Grad-Prune: prune the filters that the unlearning loss would most like to change, then relabel."""

from __future__ import annotations

from harden.pruning.greedy import Greedy
from harden.repair.relabel import Relabel
from harden.repair.train import Schedule
from harden.triggers.patch import Patch
from harden.types import Method


def grad_prune(*, max_accuracy_drop: float = 0.10, patience: int = 10, epochs: int = 100) -> Method:
    """As published, less its published code's defects.

    Published: the score, one filter a round, both patiences, SGD 1e-3 with momentum 0.9 and decay 5e-4 in batches of
    128. Different: scores in eval mode; the normalisation that really follows is closed with its convolution; closed
    filters are not chosen again, cannot grow back, and the last open one of a layer stays; relabelling is watched on
    clean and triggered images, with the statistics of batch normalisation held; epochs have a cap. The paper is given
    the attacker's trigger: without one, a mask-and-pattern inversion for every class stands in for it.
    """
    return Method(
        "grad-prune",
        "prunes one by one the filters with the largest unlearning gradient, then relabels",
        recover=Patch(),
        prune=Greedy(max_accuracy_drop=max_accuracy_drop, patience=patience),
        repair=Relabel(Schedule(epochs=epochs, rate=1e-3, patience=10, freeze_norm=True)),
        paper="Dunnett et al., Unlearning Backdoor Attacks through Gradient-Based Model Pruning, DSN-W 2024",
    )
