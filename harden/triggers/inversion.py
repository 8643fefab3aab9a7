"""The least change of one family that sends the images to one class.

    minimise   CE(f(change(x)), t) + w * size(change)

w grows while enough of the batch is given class t and shrinks while it is not, so that the search walks along the
border; what stays is the smallest change seen that succeeded. With a bound, only what is beyond it costs,

    minimise   CE(f(change(x)), t) + dear * max(size(change) / bound - 1, 0)

and what stays is the last one: a w that grew and shrank there would take forty steps for one swing. Where each class is
to become another one (all-to-all attacks), t depends on the image.

Changes are learned by Adam on this loss; where the least is wanted of one that can shrink, size is taken off exactly:

    c <- shrink(c - m / steep, w / steep)      m, steep   running means of CE's gradient and of its steepness

Under a bound nothing has to be small, and Adam is sooner as large as it may be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.network import Classifier, as_logits
from harden.scoring.folded import folded
from harden.spread import Tell
from harden.triggers.families import Change, Family, Shrinking, shrinks
from harden.types import Images

TOLD = 8
"""Steps of a search after which progress is told."""
UNSEEN = 128
"""Most images that are kept apart to see whether a change carries those along that it did not learn from."""


class Aim(Protocol):
    """True labels -> the labels that the trigger should make the model say."""

    @property
    def label(self) -> int | None:
        """The one class that it is about; None where there is none."""

    def __call__(self, labels: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class ToClass:
    """All to one class."""

    label: int

    def __call__(self, labels: Tensor) -> Tensor:
        return torch.full_like(labels, self.label)


@dataclass(frozen=True)
class ToNext:
    """Each class to the one after it, the usual all-to-all attack; or to a later one."""

    num_classes: int
    by: int = 1
    label: None = None

    def __call__(self, labels: Tensor) -> Tensor:
        return (labels + self.by) % self.num_classes


@dataclass(frozen=True)
class FromClass:
    """One class to another, and all others as they are (TaCT)."""

    source: int
    label: int

    def __call__(self, labels: Tensor) -> Tensor:
        return torch.where(labels == self.source, self.label, labels)


@dataclass(frozen=True)
class Search:
    """How hard to look."""

    batch: int = 32
    success: float | None = None
    """Share of a batch that has to follow before a change counts; None: as the family says."""
    weight: float = 0.05
    """w at the start."""
    grow: float = 1.3
    limits: tuple[float, float] = (1e-3, 20.0)
    dear: float = 5.0
    """What it costs to be twice as large as a bound."""


@dataclass(eq=False)
class Inversion:
    """One search, which can be continued."""

    model: Classifier
    """Its parameters must not ask for gradients. Another copy may stand in for it between steps."""
    change: Change
    rate: float
    warm: int
    aim: Aim
    images: Images
    """Only those that are not of the target class already."""
    settings: Search
    success: float
    """Share of a batch that has to follow."""
    unseen: Images
    """Others, as many of which have to follow; none, where a batch is enough."""
    generator: torch.Generator
    best: float = math.inf
    """Smallest size that succeeded."""
    kept: list[Tensor] = field(default_factory=list)
    bound: float = math.inf
    """If finite: the most that as large a change can do is searched for, not the least change that is enough."""
    weight: float = 0.0
    reached: float = 0.0
    """Smoothed share of the batches that follow."""
    largest: float = 1e-6
    """Largest size tried."""

    def __post_init__(self) -> None:
        self.weight = self.settings.weight
        self.step: Callable[[Tensor, Tensor, float], None] = _Single(self.change, self.rate, self.warm)
        if math.isinf(self.bound) and shrinks(self.change):
            self.step = _Whole(self.change)

    def run(self, steps: int) -> None:
        """So many more steps."""
        chosen = self.settings
        labels = self.aim(self.images.labels)
        for _ in range(steps):
            index = torch.randperm(len(self.images), generator=self.generator)[: chosen.batch]
            wanted = labels[index]
            logits = as_logits(self.model(self.change(self.images.pixels[index])))
            share = float((logits.argmax(1) == wanted).float().mean())
            size = self.change.size()
            self.largest = max(self.largest, float(size.detach()))
            self.reached = 0.7 * self.reached + 0.3 * share
            if math.isinf(self.bound):
                price = self._least(float(size.detach()), share)
            else:
                price = chosen.dear / self.bound if float(size.detach()) > self.bound else 0.0
            self.step(F.cross_entropy(logits, wanted), size, price)

    def _least(self, size: float, share: float) -> float:
        """What size costs where the least change is wanted; a success is kept, if it is smaller than those before."""
        enough, (low, high), grow = share >= self.success, self.settings.limits, self.settings.grow
        better = enough and size < self.best
        if better and len(self.unseen):
            enough = better = self._confirmed()
        if better:
            self.best = size
            self.kept = [p.detach().clone() for p in self.change.parameters]
        self.weight = min(self.weight * grow, high) if enough else max(self.weight / grow, low)
        return self.weight

    def _confirmed(self) -> bool:
        """Whether as many of those follow that it did not learn from."""
        with torch.no_grad():
            said = as_logits(self.model(self.change(self.unseen.pixels))).argmax(1)
        return float((said == self.aim(self.unseen.labels)).float().mean()) >= self.success

    def size(self) -> float:
        """The least size that succeeded; else the largest that was tried and did not."""
        return self.best if self.kept else self.largest

    def result(self) -> Change:
        """The smallest change that succeeded, or the last one tried; it learns no more."""
        with torch.no_grad():
            for parameter, value in zip(self.change.parameters, self.kept, strict=False):
                parameter.copy_(value)
        for parameter in self.change.parameters:
            parameter.requires_grad_(False)
        return self.change


class _Single:
    """Every number of a change has its own length of step (Adam)."""

    def __init__(self, change: Change, rate: float, warm: int) -> None:
        self.optimizer = torch.optim.Adam(change.parameters, lr=rate, betas=(0.5, 0.9))
        self.longer = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda past: min(1.0, (past + 1) / max(1, warm))
        )

    def __call__(self, loss: Tensor, size: Tensor, price: float) -> None:
        self.optimizer.zero_grad()
        (loss + price * size).backward()
        self.optimizer.step()
        self.longer.step()


class _Whole:
    """One length of step for all of a change, and its size taken off."""

    def __init__(self, change: Shrinking) -> None:
        self.change, self.steps = change, 0
        self.mean, self.steep = torch.zeros_like(change.parameters[0]), 0.0

    def __call__(self, loss: Tensor, size: Tensor, price: float) -> None:  # noqa: ARG002
        (parameter,) = self.change.parameters
        (gradient,) = torch.autograd.grad(loss, parameter)
        self.steps += 1
        self.mean = 0.5 * self.mean + 0.5 * gradient
        self.steep = 0.9 * self.steep + 0.1 * float(self.change.steep(gradient)) ** 2
        steep = max(math.sqrt(self.steep / (1 - 0.9**self.steps)), 1e-12)
        with torch.no_grad():
            parameter -= self.mean / (1 - 0.5**self.steps) / steep
            self.change.shrink(price / steep)


def begin(
    model: Classifier,
    family: Family,
    aim: Aim,
    images: Images,
    settings: Search,
    generator: torch.Generator,
    start: Change | None = None,
    bound: float = math.inf,
) -> Inversion:
    """A new search over the images that are not of the wanted class already, from this change or from next to none."""
    others = images.take((aim(images.labels) != images.labels).nonzero().flatten())
    shape = tuple(images.pixels.shape[1:])
    assert len(shape) == 3
    change = start or family.start((shape[0], shape[1], shape[2]), generator, images.pixels.device)
    for parameter in change.parameters:
        parameter.requires_grad_()
    success = family.success if settings.success is None else settings.success
    apart = min(UNSEEN, round(family.unseen * len(others))) if math.isinf(bound) else 0
    learned, unseen = _parted(others, apart, generator)
    return Inversion(
        model, change, family.rate, family.warm, aim, learned, settings, success, unseen, generator, bound=bound
    )


def go_on(
    search: Inversion, steps: int, deadline: float, name: str, counted: bool, model: Classifier, tell: Tell
) -> bool:
    """Goes on with a search for so many steps, in this copy of the network; whether there was time, and an image."""
    search.model = model
    if not len(search.images) or time.monotonic() >= deadline:
        tell(steps * counted, name)
        return False
    for past in range(0, steps, TOLD):
        some = min(TOLD, steps - past)
        search.run(some)
        tell(some * counted, name)
    return True


def _parted(images: Images, apart: int, generator: torch.Generator) -> tuple[Images, Images]:
    """All but so many of these, drawn by chance; and those."""
    if not apart:
        return images, images.take(torch.arange(0))
    order = torch.randperm(len(images), generator=generator)
    return images.take(order[apart:]), images.take(order[:apart])


def searchable(model: Classifier, images: Images) -> Classifier:
    """A folded copy that asks for no gradients of its own."""
    copy, _ = folded(model, images)
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    return copy
