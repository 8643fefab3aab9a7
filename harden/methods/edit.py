"""Activation-guided editing of late layers, inspired by 2407.07662."""

from __future__ import annotations

from harden.repair.edit import EditLateLayers
from harden.repair.fine_tune import FineTune
from harden.repair.train import Schedule
from harden.triggers.patch import Patch
from harden.types import Method


def edit(*, layers: int = 4, repair_epochs: int = 5, rate: float = 0.001, steps: int = 200) -> Method:
    """A reconstruction: the paper's formula is not public. Its unlearn set is made with inverted patches.

    repair_epochs = 0 leaves the repair out. No trigger recovered: the model stays as it is.
    """
    schedule = Schedule(epochs=repair_epochs, least_steps=4 * repair_epochs, rate=rate, freeze_norm=True)
    return Method(
        "edit",
        "turns down the late filters that triggers turn up; inspired by the paper",
        recover=Patch(steps=steps),
        repair=EditLateLayers(layers, repair=FineTune(schedule) if repair_epochs else None),
        paper="inspired by Hsieh et al., Activation-Guided Model Editing, arXiv 2407.07662",
    )
