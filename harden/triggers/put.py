"""Changes as triggers: what a search has found, so that every stage can put it on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harden.triggers.families import Change, Family
from harden.triggers.inversion import Aim, FromClass, ToClass, ToNext
from harden.types import Images, Trigger


@dataclass(frozen=True, eq=False)
class Put:
    """Puts a change on images."""

    change: Change
    of: int | None = None
    """The one class whose images it is put on; others are left out."""

    def __call__(self, images: Images) -> Images:
        if self.of is not None:
            images = images.take((images.labels == self.of).nonzero().flatten())
        with torch.no_grad():
            return Images(put(self.change, images.pixels), images.labels, images.names)


def as_trigger(family: Family, aim: Aim, change: Change, settings: dict[str, float]) -> Trigger:
    """A change as a trigger that every stage can put on images."""
    by = aim.by if isinstance(aim, ToNext) else 0
    of = aim.source if isinstance(aim, FromClass) else None
    name = f"{family.name} to the class {by} further" if by else f"{family.name} to class {aim.label}"
    name += "" if of is None else f" from class {of}"
    told = {"family": family.name, "by": by, **settings}
    return Trigger(name, "recovered", aim.label, Put(change, of), told, aim if by else None)


def everywhere(trigger: Trigger) -> Trigger:
    """The same on images of every class, whatever it does there."""
    apply = trigger.apply
    return replace(trigger, apply=Put(apply.change)) if isinstance(apply, Put) and apply.of is not None else trigger


def aimed(trigger: Trigger) -> Aim | None:
    """What it makes of each class; None where nobody knows."""
    if trigger.target is not None:
        of = trigger.apply.of if isinstance(trigger.apply, Put) else None
        return ToClass(trigger.target) if of is None else FromClass(of, trigger.target)
    return trigger.moved if isinstance(trigger.moved, ToNext) else None


def stronger(triggers: Sequence[Trigger], factors: Sequence[float], most: float) -> list[Trigger]:
    """The same changes, so many times as strong, up to `most` times the usual size.

    The smallest change that works is seldom as large as what the attacker used.
    """
    found = []
    for trigger in triggers:
        if isinstance(trigger.apply, Put) and "usual" in trigger.settings:
            for factor in factors:
                change = trigger.apply.change.scaled(factor)
                if change is not None and float(change.size()) <= most * trigger.settings["usual"]:
                    settings = {**trigger.settings, "size": float(change.size())}
                    found.append(replace(trigger, apply=Put(change, trigger.apply.of), settings=settings))
    return found


def put(change: Change, pixels: Tensor, batch: int = 256) -> Tensor:
    """The changed images, batch by batch."""
    return torch.cat([change(part) for part in pixels.split(batch)]) if len(pixels) else pixels


def nearby(trigger: Trigger, bound: float, most: float = 2.0) -> Change | None:
    """What it puts on images, up to twice as strong, if the bound allows it; None if nobody knows how to."""
    if not isinstance(trigger.apply, Put):
        return None
    change = trigger.apply.change
    return change.scaled(min(most, bound / float(change.size().detach())))
