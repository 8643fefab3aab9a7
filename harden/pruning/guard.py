"""What a cut may cost, and what can be won back without training.

    accepted   hits(before) - hits(after) <= max_accuracy_drop * images

counted on images that only choose, from the network in which nothing but the guilty filters is closed. It is one
budget for the whole operation, not one for every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harden.network import Classifier, Unit, borrowed, predict
from harden.pruning.channels import Row, closed_rows
from harden.types import Images, Rate


def accuracy(model: Classifier, images: Images) -> Rate:
    """How many of the images get their own label."""
    return Rate(int((predict(model, images).argmax(1) == images.labels).sum()), len(images))


class Guard:
    """Tries closings on a network and says what they cost."""

    def __init__(self, model: Classifier, images: Images, max_accuracy_drop: float) -> None:
        self.model = model
        self.images = images
        self.max_accuracy_drop = max_accuracy_drop
        self.before = accuracy(model, images)

    def drop(self, rows: Sequence[Row]) -> float:
        """What closing these rows as well costs, as a share of the images."""
        with closed_rows(self.model.network, rows):
            after = accuracy(self.model, self.images)
        return (self.before.hits - after.hits) / after.total

    def accepts(self, drop: float) -> bool:
        return drop <= self.max_accuracy_drop + 1e-12  # 0.3 - 0.2 is a little more than 0.1


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
            gates[name] = torch.ones(*output.shape[:2], 1, 1, device=output.device, dtype=output.dtype)
            return output * gates[name].requires_grad_()

        return hook

    total = {name: torch.zeros(unit.width, dtype=torch.float64) for name, unit in parts.items()}
    ends = {name: unit.conv if unit.norm is None else unit.norm for name, unit in parts.items()}
    handles = [end.register_forward_hook(gate(name)) for name, end in ends.items()]
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
