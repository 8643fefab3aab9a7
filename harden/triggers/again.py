"""A second search, in a network that has changed: what is left of the backdoor is mostly near what was found of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from harden.network import Classifier, as_logits
from harden.spread import Job, spread
from harden.triggers.families import Family, Patch, default_families
from harden.triggers.inversion import Aim, Search, begin, searchable
from harden.triggers.put import aimed, as_trigger, nearby
from harden.types import Images, Trigger


@dataclass(frozen=True)
class Again:
    """Looks again, in a network that has changed, for what was strange in the suspect."""

    families: tuple[Family, ...] = field(default_factory=default_families)
    search: Search = field(default_factory=Search)
    steps: int = 30
    within: float = math.inf
    """If finite: the most that a change can do which is this many times smaller than the usual one."""
    patches: float | None = None
    """The same for patches, which hide what they cover; None: as for all."""
    follow: float = 0.0
    """Share of the images that such a change has to carry along: what moves fewer is nothing that was left over."""
    known: bool = False
    """Whether it looks near each trigger, as strong as may be, and not from next to nothing once for each family and
    class: what is left of a backdoor is mostly near what was found of it, and is seen there in a third of the steps."""

    def __call__(
        self, model: Classifier, images: Images, triggers: Sequence[Trigger], generator: torch.Generator
    ) -> list[Trigger]:
        """New stand-ins: one for each family and class that these triggers have, or one near each of them."""
        families = {family.name: family for family in self.families}
        aims = [(t, aimed(t)) for t in triggers if "usual" in t.settings]
        known = [(str(t.settings["family"]), aim, t) for t, aim in aims if aim is not None]
        if not self.known:
            known = list({(name, aim): (name, aim, t) for name, aim, t in known}.values())
        if not known:
            return []
        copy = searchable(model, images)
        seeds = torch.randint(2**31, (len(known),), generator=generator).tolist()

        def job(name: str, aim: Aim, trigger: Trigger, seed: int) -> Job[Trigger | None]:
            return lambda mine, _: self._look(mine, images, families[name], aim, trigger, seed)

        found = spread(copy, [job(*one, seed) for one, seed in zip(known, seeds, strict=True)])
        return [trigger for trigger in found if trigger is not None]

    def _look(
        self, model: Classifier, images: Images, family: Family, aim: Aim, trigger: Trigger, seed: int
    ) -> Trigger | None:
        """What is found of one of them; None if too few images follow it."""
        usual = float(trigger.settings["usual"])
        within = self.patches if self.patches is not None and isinstance(family, Patch) else self.within
        bound = usual / within if math.isfinite(within) else math.inf
        start = nearby(trigger, bound) if self.known else None
        search = begin(model, family, aim, images, self.search, torch.Generator().manual_seed(seed), start, bound)
        search.run(self.steps)
        if search.reached < self.follow:
            return None
        size = search.size() if math.isinf(bound) else float(search.change.size().detach())
        return as_trigger(family, aim, search.result(), {"size": size, "usual": usual})


def shared(one: Classifier, other: Classifier, images: Images) -> Classifier:
    """Copies of two networks as one that asks the first about one half of the images, the second about the other: what
    is found in it leads to its class in both.
    """
    halves = _Halves(searchable(one, images).network, searchable(other, images).network)
    both = Classifier(halves, other.contract, other.cost).to(other.mean.device)
    both.layout = other.layout
    return both


class _Halves(nn.Module):
    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, pictures: Tensor) -> Tensor:
        half = len(pictures) // 2
        if not half:
            return as_logits(self.other(pictures))
        return torch.cat([as_logits(self.one(pictures[:half])), as_logits(self.other(pictures[half:]))])
