"""The one training loop: every method that moves weights (or masks) is a call of `fit`.

    for each epoch, for each batch B:   theta <- optimiser step on the gradient of loss(model, B)

What differs between methods comes in as a function: the loss, how the gradients are filled (`descend`), what
happens after a step, how a snapshot is judged, when to stop. The loop itself never asks which method it runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harden.errors import Inconclusive
from harden.network import Classifier
from harden.pruning.masks import hold
from harden.repair.augment import Augment
from harden.types import Images, Run

Loss = Callable[[Classifier, Images], Tensor]
Descend = Callable[[Callable[[], Tensor], Sequence[nn.Parameter]], Tensor]
"""Fills the gradients of the parameters from a closure that computes the loss, and returns the loss."""


@dataclass(frozen=True)
class Schedule:
    """How to step: the settings that every trained method has."""

    epochs: int = 20
    least_steps: int = 0
    """More epochs than that, if so few images make fewer steps: published epochs assume thousands of images."""
    most_steps: int | None = None
    """And fewer, in whole epochs, if so many images make more steps."""
    batch: int = 128
    rate: float = 0.01
    optimizer: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    """Of SGD; Adam keeps its usual (0.9, 0.999)."""
    weight_decay: float = 5e-4
    shape: Literal["constant", "cosine"] = "constant"
    """How the rate falls over all the steps."""
    clip: float = math.inf
    """Largest norm of the whole gradient."""
    freeze_norm: bool = False
    """Batch norm in eval mode: its statistics stand still, its scale and shift are still trained."""
    drop: bool = True
    """Whether activations, or whole blocks, are left out by chance, in a network that learned so."""
    patience: int | None = None
    """Epochs without a better snapshot before it stops; None: never."""

    def epochs_of(self, images: int) -> int:
        """Epochs over so many images."""
        steps = _steps(images, self.batch)
        most = self.epochs if self.most_steps is None else min(self.epochs, -(-self.most_steps // steps))
        return max(most, -(-self.least_steps // steps))

    def times(self, factor: int) -> Schedule:
        """The same with so many times as many steps."""
        most = None if self.most_steps is None else factor * self.most_steps
        return replace(self, epochs=factor * self.epochs, least_steps=factor * self.least_steps, most_steps=most)


def plain(closure: Callable[[], Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:  # noqa: ARG001
    """The ordinary gradient."""
    loss = closure()
    loss.backward()
    return loss


def fit(
    model: Classifier,
    images: Images,
    loss: Loss,
    schedule: Schedule,
    run: Run,
    *,
    name: str = "training",
    parameters: Sequence[nn.Parameter] | None = None,
    descend: Descend = plain,
    augment: Augment | None = None,
    before_epoch: Callable[[Classifier], None] | None = None,
    after_step: Callable[[Classifier], None] | None = None,
    validate: Callable[[Classifier], float] | None = None,
    stop: Callable[[Classifier], str | None] | None = None,
) -> dict[str, Any]:
    """Moves the parameters in place, leaves the model in eval mode, and says what it did.

    With `validate` (larger is better; of equals the later) the best snapshot is what stays, the start among them.
    `stop` is asked after each epoch and gives its reason. NaN ends the training at once and brings back the best
    snapshot, or the last whole one. Filters that are closed at the start stay closed.
    """
    if not len(images):
        raise Inconclusive(f"{name} needs clean images to learn from, and there are none.")
    moved = list(model.parameters() if parameters is None else parameters)
    generator = torch.Generator().manual_seed(run.seed)
    steps = _steps(len(images), schedule.batch)
    epochs = schedule.epochs_of(len(images))
    optimizer, falling = _optimizer(moved, schedule, epochs * steps)
    kept = _Best(model, moved, validate)
    losses: list[float] = []
    because = "all epochs done"
    with _only(model, moved), _seeded(run), run.progress.task(name, epochs * steps) as task:
        keep_closed = hold(model)
        for epoch in range(epochs):
            _mode(model, schedule)
            if before_epoch is not None:
                before_epoch(model)
            total = 0.0
            for index in _batches(len(images), schedule.batch, generator):
                if time.monotonic() > run.deadline:
                    because = "time budget spent"
                    break
                batch = images.take(index).to(model.mean.device)
                if augment is not None:
                    batch = Images(augment(batch.pixels, generator), batch.labels, batch.names)
                optimizer.zero_grad()
                value = float(descend(lambda batch=batch: loss(model, batch), moved).detach())  # type: ignore[misc]
                if not math.isfinite(value) or not _finite_gradients(moved):
                    because = f"the loss or its gradient was not finite in epoch {epoch + 1}"
                    break
                if math.isfinite(schedule.clip):
                    nn.utils.clip_grad_norm_(moved, schedule.clip)
                optimizer.step()
                falling.step()
                keep_closed()
                if after_step is not None:
                    after_step(model)
                total += value
                task.advance(1, f"epoch {epoch + 1}, loss {value:.3f}")
            model.eval()
            if because != "all epochs done" or not _finite(moved):
                because = because if because != "all epochs done" else f"weights not finite in epoch {epoch + 1}"
                break
            losses.append(total / steps)
            kept.offer(epoch + 1)
            reason = stop(model) if stop is not None else None
            if reason or (schedule.patience is not None and epoch + 1 - kept.epoch >= schedule.patience):
                because = reason or f"no better snapshot for {schedule.patience} epochs"
                break
    model.eval()
    kept.restore(always=validate is not None or "finite" in because)
    return {
        "epochs": len(losses),
        "kept_epoch": kept.epoch,
        "loss": [round(value, 6) for value in losses],
        "score": None if validate is None else kept.score,
        "stopped_because": because,
        "schedule": _settings(schedule),
    }


def or_as_it_was(model: Classifier, before: Mapping[str, Tensor], record: dict[str, Any]) -> dict[str, Any]:
    """For a repair that changes weights before it trains: if training broke at once, the model is what it was before.

    `before` is its state, copied; `record` is what `fit` said.
    """
    if not record["epochs"] and "finite" in record["stopped_because"]:
        model.load_state_dict(before)
    return record


class _Best:
    """The snapshot to go back to: the best by `validate`, or the latest whole one where nothing judges."""

    def __init__(
        self, model: Classifier, moved: Sequence[nn.Parameter], validate: Callable[[Classifier], float] | None
    ) -> None:
        self.model, self.validate = model, validate
        self.tensors = [*moved, *model.buffers()]
        self.epoch = 0
        self.score = -math.inf
        self.values: list[Tensor] = []
        model.eval()
        self.offer(0)

    def offer(self, epoch: int) -> None:
        score = 0.0 if self.validate is None else self.validate(self.model)
        score = -math.inf if math.isnan(score) else score
        if score >= self.score:
            self.epoch, self.score = epoch, score
            self.values = [t.detach().clone() for t in self.tensors]

    def restore(self, *, always: bool) -> None:
        if always:
            with torch.no_grad():
                for tensor, value in zip(self.tensors, self.values, strict=True):
                    tensor.copy_(value)


def _steps(total: int, batch: int) -> int:
    """How many batches `_batches` makes."""
    return max(1, -(-total // batch) - (total > batch > 1 and total % batch == 1))


def _batches(total: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """A shuffled epoch; a rest of one image joins the batch before, since batch norm cannot train on one."""
    parts = list(torch.split(torch.randperm(total, generator=generator), batch))
    if total > batch > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    yield from parts


def _optimizer(
    moved: Sequence[nn.Parameter], schedule: Schedule, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer: torch.optim.Optimizer
    if schedule.optimizer == "adam":
        optimizer = torch.optim.Adam(moved, schedule.rate, weight_decay=schedule.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            moved, schedule.rate, momentum=schedule.momentum, weight_decay=schedule.weight_decay
        )

    def factor(step: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / steps)) if schedule.shape == "cosine" else 1.0

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _mode(model: Classifier, schedule: Schedule) -> None:
    model.train(schedule.drop)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train(not schedule.freeze_norm)


@contextmanager
def _only(model: Classifier, moved: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients for what is moved and for nothing else; afterwards as it was, with no gradient left behind."""
    before = {p: p.requires_grad for p in [*model.parameters(), *moved]}
    for parameter in before:
        parameter.requires_grad_(False)
    for parameter in moved:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, requires in before.items():
            parameter.requires_grad_(requires)
            parameter.grad = None


@contextmanager
def _seeded(run: Run) -> Iterator[None]:
    """Dropout draws from the global generator: it is lent to this run, and given back as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        yield


def _finite(tensors: Sequence[Tensor]) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in tensors)


def _finite_gradients(moved: Sequence[nn.Parameter]) -> bool:
    return all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in moved)


def _settings(schedule: Schedule) -> Mapping[str, Any]:
    return {k: v if not isinstance(v, float) or math.isfinite(v) else str(v) for k, v in asdict(schedule).items()}
