"""What a cut may cost, and what can be won back without training.

    lost       the smaller of two: how many fewer images are right, and how much less probable their classes are
    accepted   lost <= max_accuracy_drop
               and what is said of mixtures moves by at most NATS * max_accuracy_drop   (likeness)

counted on images that only choose, from the network in which nothing but the guilty filters is closed. It is one
budget for the whole operation, not one for every layer. Of a hundred images two on the border change sides by chance,
which their probabilities tell from harm; and images that the network was trained on notice nothing, but mixtures do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harden.network import Classifier, Unit, as_logits, borrowed, predict
from harden.pruning.channels import Row, closed_rows
from harden.pruning.likeness import Likeness
from harden.types import Images, Rate, Splits

NATS = 2.0
"""A network that moves by 0.02 nats has lost about half a point of accuracy on the models where both were measured."""
ANY = 1.0
"""Whoever allows all accuracy to go does not mind what is said of mixtures either."""
ROUNDING = 1e-6


def accuracy(model: Classifier, images: Images) -> Rate:
    """How many of the images get their own label."""
    return Rate(int((predict(model, images).argmax(1) == images.labels).sum()), len(images))


@dataclass(frozen=True)
class Standing:
    """How well a network does on some images."""

    right: float
    """Share that get their own label."""
    believed: float
    """Mean probability of their own labels."""

    def lost(self, after: Standing) -> float:
        """What has become worse; the smaller of both, as a share."""
        return min(self.right - after.right, self.believed - after.believed)


def standing(model: Classifier, images: Images) -> Standing:
    """How well this network does on these images now."""
    likely = as_logits(predict(model, images)).softmax(1)
    right = likely.argmax(1) == images.labels
    believed = likely.gather(1, images.labels[:, None]).double()
    return Standing(float(right.double().mean()), float(believed.mean()))


@dataclass(frozen=True, order=True)
class Price:
    """What a cut costs besides the guilty filters."""

    drop: float
    """Of accuracy; see Standing."""
    apart: float
    """How far it moves what is said of mixtures, in nats."""


class Guard:
    """Tries closings on a network and says what they cost; a guard that lets everything pass looks at nothing."""

    def __init__(self, model: Classifier, splits: Splits, max_accuracy_drop: float, seed: int) -> None:
        self.model = model
        self.images = splits.choose
        self.max_accuracy_drop = max_accuracy_drop
        self.asleep = max_accuracy_drop >= ANY
        self.max_apart = math.inf if self.asleep else NATS * max_accuracy_drop
        if not self.asleep:
            self.before = standing(model, self.images)
            self.likeness = Likeness(model, splits.tune, seed)

    def price(self, rows: Sequence[Row]) -> Price:
        """What closing these rows as well costs."""
        if self.asleep:
            return Price(0.0, 0.0)
        with closed_rows(self.model.network, rows):
            return Price(self.before.lost(standing(self.model, self.images)), self.likeness.apart(self.model))

    def accepts(self, price: Price) -> bool:
        # 0.3 - 0.2 is a little more than 0.1; a network that says the same of all pictures is rounded all the same
        return price.drop <= self.max_accuracy_drop + 1e-12 and price.apart <= self.max_apart + ROUNDING

    def refusal(self, price: Price) -> str:
        """Why it is too much."""
        if price.drop > self.max_accuracy_drop + 1e-12:
            lost, allowed = 100 * price.drop, 100 * self.max_accuracy_drop
            return f"that costs {lost:.1f} points of accuracy, and {allowed:.1f} are allowed"
        moved = f"what the network says of mixed pictures by {price.apart:.3f} nats"
        return f"that moves {moved}, and {self.max_apart:.3f} are allowed"


def costs(model: Classifier, parts: Mapping[str, Unit], images: Images, batch: int = 64) -> dict[str, Tensor]:
    """What closing each filter would cost, cheaply: half the mean square of every image's gradient for its gate.

        cost_i = 1/2 * mean_n (dL_n / dg_ni)^2,   g = 1 on the output of filter i for image n

    The second-order estimate with the Fisher information in place of the curvature: the first-order term vanishes
    where training has converged, and images of different classes would cancel each other in it.
    """
    if not parts:
        return {}
    gates: dict[str, Tensor] = {}

    def gate(name: str) -> Callable[..., Tensor]:
        def hook(*called: Any) -> Tensor:
            output: Tensor = called[2]
            unit = parts[name]
            gates[name] = unit.along(output.new_ones(len(output), unit.width))
            return output * gates[name].requires_grad_()

        return hook

    total = {name: torch.zeros(unit.width, dtype=torch.float64) for name, unit in parts.items()}
    handles = [unit.last.register_forward_hook(gate(name)) for name, unit in parts.items()]
    try:
        with borrowed(model), torch.enable_grad():
            model.eval()
            for pixels, labels in zip(images.pixels.split(batch), images.labels.split(batch), strict=True):
                loss = nn.functional.cross_entropy(model(pixels), labels, reduction="sum")
                gradients = torch.autograd.grad(loss, [gates[name] for name in parts], allow_unused=True)
                for name, gradient in zip(parts, gradients, strict=True):
                    if gradient is not None:
                        total[name] += gradient.flatten(1).double().square().sum(0).cpu()
    finally:
        for handle in handles:
            handle.remove()
    return {name: row / (2 * max(1, len(images))) for name, row in total.items()}


@contextmanager
def counting_afresh(network: nn.Module) -> Iterator[None]:
    """Batch normalisation counts its statistics anew, as plain means over all that passes through."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def reestimate(
    model: Classifier, tune: Images, choose: Images, before: Rate, *, seed: int = 0, batch: int = 64
) -> bool:
    """Renews the statistics of batch normalisation on clean images, if accuracy fell and only where it helps.

    True if they were kept. It makes an untouched network worse, so it is measured and undone where it does not help.
    """
    now = accuracy(model, choose)
    saved = {name: buffer.clone() for name, buffer in model.network.named_buffers()}
    if now.hits >= before.hits or len(tune) < 2:
        return False
    model.eval()
    with torch.no_grad(), counting_afresh(model.network):
        # Shuffled, since batches of one class each would miss the variance between the classes.
        order = torch.randperm(len(tune), generator=torch.Generator().manual_seed(seed))
        for part in order.split(batch):
            if len(part) > 1:  # one image alone has no variance at 1x1 pixels
                model(tune.pixels[part.to(tune.pixels.device)])
    if accuracy(model, choose).hits > now.hits:
        return True
    for name, buffer in model.network.named_buffers():
        buffer.copy_(saved[name])
    return False
