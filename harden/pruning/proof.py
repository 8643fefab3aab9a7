"""The proof that a cut changed nothing.

    max |pruned(x) - masked(x)| <= 1e-9 * max |masked(x)|        in float64

on random and on real images. Where torch-pruning is right the difference is 1e-15; where it is wrong, 1e-5 and more:
between them lie ten orders of magnitude. Its own check says yes to almost every network that it breaks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harden.network import Classifier
from harden.softmax import before_softmax
from harden.types import Images

TOLERANCE = 1e-9


def proof_inputs(model: Classifier, images: Images, seed: int, random: int = 2, real: int = 2) -> Tensor:
    """Normalised images in float64: some of noise, and some real ones."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(random, *model.contract.input_size, generator=generator).to(model.mean.device)
    spread = torch.linspace(0, len(images) - 1, min(real, len(images))).long().to(images.pixels.device)
    pixels = torch.cat([noise, images.pixels[spread].to(model.mean.device)])
    return ((pixels - model.mean) / model.std).double()


@torch.no_grad()
def outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    """The logits: behind a softmax, a wrong one may look right."""
    logits, _ = before_softmax(network, inputs)
    return logits.clone()


def difference(expected: Tensor, found: Tensor) -> float:
    """The largest difference, relative to the largest output; infinite where there is nothing to compare."""
    if expected.shape != found.shape or not bool(found.isfinite().all()):
        return float("inf")
    scale = float(expected.abs().max())
    gap = float((found - expected).abs().max())
    return gap / scale if scale else (0.0 if gap == 0 else float("inf"))
