"""The linear layer that makes the logits, found by a forward pass and not by its name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harden.network import Classifier, borrowed


def head(model: Classifier) -> nn.Linear | None:
    """The last linear layer of the pass, if it has a row for each class; None: there is no such layer."""
    found: list[nn.Linear] = []

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
        assert isinstance(module, nn.Linear)
        found.append(module)

    handles = [m.register_forward_hook(hook) for m in model.network.modules() if isinstance(m, nn.Linear)]
    spent = model.cost.forward_images
    try:
        with borrowed(model), torch.no_grad():
            model.eval()
            model(torch.zeros(1, *model.contract.input_size, device=model.mean.device))
    finally:
        model.cost.forward_images = spent
        for handle in handles:
            handle.remove()
    return found[-1] if found and found[-1].out_features == model.contract.num_classes else None


NO_HEAD = "the network does not end in a linear layer with one row for each class"
