"""The unlearning gradient: which filter would the network have to change, to forget its trigger?

    x~          a triggered image           y      its true label           N   triggered images
    L_u       = 1/N  sum  CE(f(x~), y)      large while the backdoor is there
    g         = dL_u / dw[l, i]             of the weights of filter i of convolution l, in eval mode
    score     = mean |g|                    over the filter's weights (MAG)

One forward and one backward pass, whatever the number of filters. Published as the score of Grad-Prune
(arXiv 2405.03918).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.network import Classifier, Unit, as_logits, borrowed
from harden.scoring.folded import FoldedUnit
from harden.types import Contract, Images

Scores = dict[str, Tensor]
"""One number for each filter of each convolution."""


@dataclass(frozen=True)
class UnlearningGradient:
    """Mean absolute gradient of the unlearning loss."""

    batch: int = 0
    """Images at once; 0: as many as suit their size. The score does not depend on it."""

    def __call__(self, model: Classifier, parts: Mapping[str, Unit], clean: Images, triggered: Images) -> Scores:  # noqa: ARG002
        """The score has no clean term: `clean` is there because other scores have one."""
        with gradients(model, (unit.conv.weight for unit in parts.values())):
            backward(model, triggered, self.batch)
            return {name: mean_absolute(unit) for name, unit in parts.items()}


def mean_absolute(unit: Unit) -> Tensor:
    """Mean |g| for each filter; 0 where no gradient arrived."""
    gradient = unit.conv.weight.grad
    if gradient is None:
        return torch.zeros(unit.width, device=unit.conv.weight.device)
    score = gradient.abs().mean(tuple(range(1, gradient.dim())))
    return score * unit.scale.abs() if isinstance(unit, FoldedUnit) else score


@contextmanager
def gradients(model: Classifier, wanted: Iterable[Tensor]) -> Iterator[None]:
    """Eval mode, and gradients for these parameters alone; everything is given back as it was."""
    with borrowed(model):
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        for tensor in wanted:
            tensor.requires_grad_(True)
        yield


def backward(model: Classifier, images: Images, batch: int = 0) -> float:
    """Adds the gradient of the mean cross-entropy to the parameters' own, and returns the cross-entropy."""
    device = model.mean.device
    total = 0.0
    for pixels, labels in batches(images, batch or batch_for(model.contract)):
        logits = as_logits(model(pixels.to(device)))
        loss = F.cross_entropy(logits, labels.to(device), reduction="sum") / len(images)
        loss.backward()
        total += float(loss.detach())
    return total


def batches(images: Images, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels and labels, in order."""
    yield from zip(images.pixels.split(batch), images.labels.split(batch), strict=True)


def batch_for(contract: Contract) -> int:
    """128 images of up to 64x64 pixels, fewer of larger ones: a batch's activations are what fills the memory."""
    _, height, width = contract.input_size
    return max(8, min(128, 2**19 // (height * width)))
