"""One untargeted universal perturbation: does the same small noise send everything into one class?

    x~        = clamp(x + d, 0, 1)        |d|_inf <= eps, the same d for all images
    maximise    CE(f(x~), y)              by d <- clip(d + step * sign(gradient)), batch by batch
    score     = share of the images of other classes that x~ sends into the one class that it favours

A backdoor that is spread thinly over the picture is the direction that such a search falls into. A clean network is
fooled too, but into many classes; so only a score above `threshold` is evidence, and a lower one is no all-clear.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from harden.network import Classifier, as_logits, predict
from harden.scoring.folded import folded
from harden.scoring.gradient import batch_for, gradients
from harden.triggers.given import on_pixels
from harden.types import ClassEvidence, Evidence, Run, Splits, Trigger


@dataclass(frozen=True)
class Universal:
    """One perturbation for all images and all classes."""

    eps: float = 16 / 255
    """Largest change of a pixel in [0, 1]."""
    step: float = 2 / 255
    epochs: int = 20
    images: int = 64
    """In a batch."""
    threshold: float = 0.8
    """Share of the images of other classes that end in one class."""

    def __call__(self, model: Classifier, splits: Splits, run: Run) -> Evidence:
        images, device = splits.tune, model.mean.device
        if not len(images) or not len(splits.choose):
            return Evidence("inconclusive", (), (), (), "there are no clean images to look at")
        copy, _ = folded(model, images)
        generator = torch.Generator().manual_seed(run.seed)
        noise = (2 * torch.rand(1, *model.contract.input_size, generator=generator) - 1) * self.eps / 4
        noise = noise.to(device)
        with gradients(copy, ()), run.progress.task("searching a universal perturbation", self.epochs) as task:
            for _ in range(self.epochs):
                if time.monotonic() > run.deadline:
                    break
                for index in torch.randperm(len(images), generator=generator).split(self.images):
                    batch = images.take(index.to(images.labels.device)).to(device)
                    noise.requires_grad_()
                    logits = as_logits(copy((batch.pixels + noise).clamp(0, 1)))
                    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, batch.labels), noise)
                    noise = (noise.detach() + self.step * gradient.sign()).clamp(-self.eps, self.eps)
                task.advance()
        apply = _Noise(noise.detach())

        choose = splits.choose
        said = predict(model, apply(choose.pixels), batch_for(model.contract)).argmax(1)
        wrong = said[said != choose.labels]
        label = int(wrong.bincount(minlength=model.contract.num_classes).argmax())
        others = choose.labels != label
        score = float((said[others] == label).float().mean()) if bool(others.any()) else 0.0
        evidence = (ClassEvidence(label, round(score, 4), self.threshold, "universal"),)
        name = f"universal perturbation to {model.contract.classes[label]}"
        settings = {"kind": "universal", "eps": self.eps, "share": round(score, 4)}
        if score <= self.threshold:
            why = f"a universal perturbation sends {score:.0%} of the images into one class: not enough to say"
            return Evidence("inconclusive", (), evidence, (), why)
        trigger = Trigger(name, "recovered", label, on_pixels(apply), settings)
        why = f"one perturbation of at most {255 * self.eps:.0f}/255 sends {score:.0%} of the images into one class"
        return Evidence("backdoored", (label,), evidence, (trigger,), why)


@dataclass(frozen=True, eq=False)
class _Noise:
    noise: torch.Tensor  # (1, C, H, W)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels + self.noise.to(pixels)).clamp(0, 1)
