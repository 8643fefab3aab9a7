"""The gate score: what would closing a filter gain, and what would it cost?

Put a gate m = 1 on the output of filter i. To first order, closing it (m = 0) changes a loss L by -dL/dm:

    gain  = dL_u/dm            the unlearning loss on triggered images falls by so much
    cost  = -dL_c/dm           the loss on clean images rises by so much
    score = gain - w * max(cost, 0)

dL/dm costs nothing beyond the backward pass: see network.gate_gradients. Unlike the mean absolute gradient it has
a sign, and it is in the unit of the loss in every layer, so filters of different layers can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harden.network import Classifier, Unit, gate_gradients
from harden.scoring.gradient import Scores, backward, gradients
from harden.types import Images


@dataclass(frozen=True)
class Gate:
    """First-order gain on the unlearning loss, less the weighted cost on the clean one."""

    weight: float = 2.0
    """w: how much dearer clean loss is than unlearning loss."""
    batch: int = 0
    """Images at once; 0: as many as suit their size. The score does not depend on it."""

    def __call__(self, model: Classifier, parts: Mapping[str, Unit], clean: Images, triggered: Images) -> Scores:
        gain = gate(model, parts, triggered, self.batch)
        cost = gate(model, parts, clean, self.batch)
        return {name: gain[name] - self.weight * (-cost[name]).clamp_min(0) for name in parts}


def gate(model: Classifier, parts: Mapping[str, Unit], images: Images, batch: int = 0) -> Scores:
    """dL/dm of the mean cross-entropy on these images."""
    with gradients(model, (p for unit in parts.values() for p in unit.gate_parameters())):
        backward(model, images, batch)
        return gate_gradients(dict(parts))
