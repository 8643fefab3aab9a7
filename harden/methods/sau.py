"""SAU: unlearn the adversarial examples that the suspect and the repaired network share."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from harden.repair.shared import SharedAdversarial
from harden.repair.train import Schedule
from harden.triggers.nothing import Nothing
from harden.types import Method


def sau(
    *,
    published: Literal["code", "paper"] = "code",
    epochs: int = 100,
    batch: int = 256,
    rate: float = 1e-4,
    freeze_norm: bool = True,
    best: bool = False,
) -> Method:
    """The two published sets of weights: the code's (adv 0.01, share 1) and the paper's (adv 1, share 0.01).

    Published runs return the last epoch; `best` keeps the one of least clean loss on the split made for choosing.
    """
    schedule = Schedule(
        epochs=epochs,
        batch=batch,
        rate=rate,
        optimizer="adam",
        weight_decay=0.0,
        freeze_norm=freeze_norm,
        drop=not freeze_norm,
    )
    repair = SharedAdversarial(schedule, best=best)
    if published == "paper":
        repair = replace(repair, adv=1.0, share=0.01)
    return Method(
        "sau",
        "unlearns adversarial examples shared with the suspect",
        recover=Nothing(),
        repair=repair,
        paper="Wei et al., Shared Adversarial Unlearning, NeurIPS 2023, arXiv 2307.10562",
    )
