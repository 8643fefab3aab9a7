"""Mask-and-pattern inversion: how small a patch makes every image look like class t? (Neural Cleanse, S&P 2019)

    x~        = (1 - m) x + m p          m (1, H, W) and p (C, H, W) in [0, 1], through a tanh
    minimise    CE(f(x~), t) + lambda |m|_1               Adam, over images of other classes
    lambda      doubled after `patience` batches in a row with success >= `success`, else divided by 2^1.5
    kept        the smallest |m|_1 that reached the success, `patience` batches in a row
    index     = (median - |m_t|_1) / (1.4826 MAD)         over the classes; more than `threshold` is evidence

It sees stickers, and whatever else a patch can stand in for. Warps, curves and sample-specific triggers it does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.network import Classifier, as_logits, predict
from harden.scoring.folded import folded
from harden.scoring.gradient import batch_for, gradients
from harden.triggers.given import on_pixels
from harden.types import ClassEvidence, Evidence, Images, Run, Splits, Task, Trigger

ENOUGH_CLASSES = 5
"""A median and its deviation say nothing about fewer."""
ENOUGH_IMAGES = 20
HOLDS = 0.8
"""Success that a patch must have on images that it was not made with."""


@dataclass(frozen=True, eq=False)
class _Patch:
    mask: Tensor  # (1, H, W)
    pattern: Tensor  # (C, H, W)
    size: float
    """|m|_1, or infinity where no patch reached the success that was asked for."""

    def __call__(self, pixels: Tensor) -> Tensor:
        mask, pattern = self.mask.to(pixels), self.pattern.to(pixels)
        return (1 - mask) * pixels + mask * pattern


@dataclass(frozen=True)
class Patch:
    """One patch for every class; those that are strangely small are evidence."""

    steps: int = 120
    """At most, for each class."""
    images: int = 32
    """In a batch."""
    rate: float = 0.1
    success: float = 0.99
    first_lambda: float = 1e-3
    patience: int = 5
    """Batches in a row, before lambda moves or a mask counts."""
    stop_after: int = 25
    """Successful batches without a notably smaller mask, before a class is done."""
    threshold: float = 2.0
    """Of the anomaly index."""
    of_median: float = 0.5
    """A strange patch has at most this share of the median's size: where all sizes are nearly the same, their
    deviation is so small that the index alone would call any difference strange."""

    def __call__(self, model: Classifier, splits: Splits, run: Run) -> Evidence:
        classes = model.contract.num_classes
        if classes < ENOUGH_CLASSES or len(splits.tune) < ENOUGH_IMAGES:
            return Evidence(
                "inconclusive", (), (), (),
                f"{classes} classes and {len(splits.tune)} images; at least {ENOUGH_CLASSES} and {ENOUGH_IMAGES} are "
                "needed to call a patch strangely small",
            )  # fmt: skip
        copy, _ = folded(model, splits.tune)
        generator = torch.Generator().manual_seed(run.seed)
        found: dict[int, _Patch] = {}
        with gradients(copy, ()), run.progress.task("inverting a patch for every class", classes * self.steps) as task:
            for label in range(classes):
                if time.monotonic() > run.deadline:
                    break
                found[label] = self._invert(copy, splits.tune, label, generator, task)
        return self._evidence(model, splits.choose, found)

    def _invert(self, model: Classifier, images: Images, label: int, generator: torch.Generator, task: Task) -> _Patch:
        """The smallest patch that makes images of other classes look like this one."""
        device, others = model.mean.device, images.pixels[images.labels != label]
        channels, height, width = model.contract.input_size
        raw = torch.randn(channels + 1, height, width, generator=generator)
        raw = raw.to(device).requires_grad_()  # the mask, then the pattern, before the tanh
        adam = torch.optim.Adam([raw], self.rate, betas=(0.5, 0.9))
        weight, up, down, since, streak = self.first_lambda, 0, 0, 0, 0
        pressed = lost = False  # lambda has grown, and has then grown so far that the success was lost
        best = _Patch(torch.zeros(1, height, width), torch.zeros(channels, height, width), math.inf)
        for step in range(self.steps):
            index = torch.randint(len(others), (min(self.images, len(others)),), generator=generator)
            batch = others[index.to(others.device)].to(device)
            mask, pattern = (raw.tanh() + 1).div(2 + 1e-6).split([1, channels])
            logits = as_logits(model((1 - mask) * batch + mask * pattern))
            goal = torch.full((len(batch),), label, device=device)
            size = mask.sum()
            loss = F.cross_entropy(logits, goal) + weight * size
            (raw.grad,) = torch.autograd.grad(loss, raw)
            reached = float((logits.argmax(1) == label).float().mean()) >= self.success
            since += int(reached)
            streak = streak + 1 if reached else 0
            if streak >= self.patience and (pixels := float(size.detach())) < best.size:
                since = 0 if pixels < 0.99 * best.size else since
                best = _Patch(mask.detach().clone(), pattern.detach().clone(), pixels)
            adam.step()
            up, down = (up + 1, 0) if reached else (0, down + 1)
            if up >= self.patience:
                weight, up, pressed = weight * 2, 0, True
            elif down >= self.patience:
                weight, down, lost = weight / 2**1.5, 0, pressed
            if since >= self.stop_after and lost:
                task.advance(self.steps - step, f"class {label}: {best.size:.1f} pixels")
                break
            task.advance(1, f"class {label}: {best.size:.1f} pixels")
        return best

    def _evidence(self, model: Classifier, choose: Images, found: Mapping[int, _Patch]) -> Evidence:
        """A class is named only where the index says so and the patch works on images that it was not made with."""
        classes = model.contract.num_classes
        reached = {label: patch for label, patch in found.items() if patch.size < math.inf}
        index = anomaly({label: patch.size for label, patch in reached.items()})
        evidence = tuple(ClassEvidence(k, round(v, 4), self.threshold, "patch") for k, v in index.items())
        triggers = []
        small = self.of_median * float(torch.tensor([p.size for p in reached.values()] or [0.0]).quantile(0.5))
        strange = [k for k, v in index.items() if v > self.threshold and reached[k].size <= small]
        for label in strange:
            patch = reached[label]
            others = choose.pixels[choose.labels != label]
            said = predict(model, patch(others), batch_for(model.contract)).argmax(1)
            if len(said) and float((said == label).float().mean()) >= HOLDS:
                settings = {"kind": "patch", "pixels": round(patch.size, 3), "index": round(index[label], 3)}
                name = f"patch to {model.contract.classes[label]}"
                triggers.append(Trigger(name, "recovered", label, on_pixels(patch), settings))
        targets = tuple(t.target for t in triggers if t.target is not None)
        if triggers:
            why = f"{len(targets)} of {classes} classes can be reached by a strangely small patch"
            return Evidence("backdoored", targets, evidence, tuple(triggers), why)
        if strange:
            why = f"{len(strange)} strangely small patches, which do not work on other images"
            return Evidence("inconclusive", (), evidence, (), why)
        if len(reached) < max(ENOUGH_CLASSES, classes / 2):
            why = f"a patch was found for {len(reached)} of {classes} classes only, too few to compare"
            return Evidence("inconclusive", (), evidence, (), why)
        why = "no class can be reached by a strangely small patch; other kinds of trigger were not looked for"
        return Evidence("clean", (), evidence, (), why)


def anomaly(sizes: Mapping[int, float]) -> dict[int, float]:
    """How many deviations each size is below the median; larger ones are below 0."""
    if not sizes:
        return {}
    values = torch.tensor(list(sizes.values()), dtype=torch.float64)
    median = values.quantile(0.5)
    deviation = 1.4826 * (values - median).abs().quantile(0.5)
    return dict(zip(sizes, ((median - values) / deviation.clamp_min(1e-9)).tolist(), strict=True))
