"""ULRL: clean unlearning shows the target's row of the classifier, which is then relearned."""

from __future__ import annotations

import math

from harden.repair.train import Schedule
from harden.repair.ulrl import RelearnRows, RowShift
from harden.types import Method


def ulrl(
    *,
    epochs: int = 20,
    rate: float = math.nan,
    alpha: float = math.nan,
    threshold: float = 3.5,
    most: int = 2,
) -> Method:
    """As published, but for the rows kept when more than `most` are suspicious: those of largest change.

    Fewer than 512 images make at least the 80 steps that the published 500 make. NaN: as published for the number
    of classes. The published code augments in both phases, here only the second does. Where the published alpha lets a
    suspicious class be lost, it relearns with a tenth of it: on the zoo's ResNet, whose rows are three times as long
    as one drawn anew, 3 % of the target's own images were known again, of those it learned from. No linear head: it
    refuses.
    """
    schedule = Schedule(epochs=epochs, least_steps=4 * epochs, batch=128, rate=rate, shape="cosine")
    return Method(
        "ulrl",
        "relearns the rows of the classifier that clean unlearning moves most",
        recover=RowShift(threshold=threshold, most=most),
        repair=RelearnRows(schedule, alpha),
        paper="Unlearn to Relearn Backdoors, arXiv 2405.14781",
    )
