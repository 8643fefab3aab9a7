"""BAERASE: generators of many triggers, maximum entropy among them, and unlearning of what they find."""

from __future__ import annotations

from harden.repair.ascent import Ascent
from harden.repair.train import Schedule
from harden.triggers.entropy import EntropyGenerator
from harden.types import Method


def baerase(
    *,
    steps: int = 400,
    probe_steps: int = 80,
    size: int = 3,
    epochs: int = 10,
    rate: float = 1e-4,
    relabel: bool = False,
) -> Method:
    """The method of the paper; the published code differs and does not run: its generator is never trained.

    The generators are trained here, one for each level of the staircase; the target is found by a short search for
    every class; unlearning stops by the recovered triggers on the split for choosing, where the code asks the true
    one. The penalty is the plain weight distance: the paper's weighting is not public. `relabel` learns the true
    labels instead of ascending from the target. Patches of `size` pixels only: other triggers are not found.
    """
    schedule = Schedule(epochs=epochs, least_steps=20 * epochs, rate=rate, weight_decay=0.0, freeze_norm=True)
    return Method(
        "baerase",
        "generates many triggers and unlearns them",
        recover=EntropyGenerator(steps=steps, probe_steps=probe_steps, size=size),
        repair=Ascent(schedule, relabel=relabel),
        paper="Liu et al., Backdoor Defense with Machine Unlearning, INFOCOM 2022, arXiv 2201.09538",
    )
