"""A second opinion on a change that is nearly strange: do a few filters serve it?

    follow = share of the images, not searched with, that the change still sends to its class, once up to `rounds`
             filters are closed whose closing is seen to win something and costs next to no accuracy   (gated.py)

A backdoor was put into a network that was whole without it, and mostly it lives in few filters. That a class is easy
to reach by nature is nobody's doing in particular. Neither is always so: this is asked only where sizes leave a doubt.
The suspect is believed meanwhile: whether it lies is what is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harden.network import Classifier, units
from harden.pruning.gated import GateSearch
from harden.triggers.strange import Opinion
from harden.types import Evidence, Run, Splits, Trigger


@dataclass(frozen=True)
class FewFilters:
    """Closes the filters that seem to serve a change, and counts the images that still follow it."""

    search: GateSearch = field(default_factory=lambda: GateSearch(doubt=False, max_rounds=4, searches=0, spare=None))

    def __call__(self, model: Classifier, splits: Splits, trigger: Trigger, run: Run) -> Opinion:
        if not units(model):
            return Opinion(0, 1.0)
        targets = () if trigger.target is None else (trigger.target,)
        found = self.search(model.copy(), splits, Evidence("backdoored", targets, (), (trigger,)), run)
        left = found.rounds[-1].attack_success if found.rounds else None  # the first round is the start
        return Opinion(len(found.guilty), 1.0 if left is None else left.value)
