"""Losses that every method shares, and one rule: whatever a network ends in, they read it as logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.network import Classifier, as_logits, predict
from harden.types import Images, Rate

__all__ = ["accuracy", "as_logits", "clean_loss", "cross_entropy", "smoothed"]


def cross_entropy(model: Classifier, batch: Images) -> Tensor:
    """CE(f(x), y), a mean over the batch."""
    return F.cross_entropy(as_logits(model(batch.pixels)), batch.labels)


def smoothed(smoothing: float) -> Callable[[Classifier, Images], Tensor]:
    """Cross-entropy with label smoothing, as a loss for the trainer."""

    def loss(model: Classifier, batch: Images) -> Tensor:
        return F.cross_entropy(as_logits(model(batch.pixels)), batch.labels, label_smoothing=smoothing)

    return loss


def accuracy(model: Classifier, images: Images) -> Rate:
    """How many images get their own label, in eval mode."""
    if not len(images):
        return Rate(0, 0)
    return Rate(int((predict(model, images).argmax(1) == images.labels).sum()), len(images))


@torch.no_grad()
def clean_loss(model: Classifier, images: Images) -> float:
    """Mean cross-entropy in eval mode."""
    return float(F.cross_entropy(as_logits(predict(model, images)), images.labels))


def distilled(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL( teacher / T || logits / T ), the mean over the images."""
    wanted = (teacher / temperature).softmax(1)
    return temperature**2 * F.kl_div((logits / temperature).log_softmax(1), wanted, reduction="batchmean")
