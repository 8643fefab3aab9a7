"""The network as every stage sees it: pixels in, logits out, and filters that can be closed and opened again.

A *unit* is a convolution with the normalisation that really follows it (found by following tensors through one
forward pass, never by the order of parameters). Closing filter i of a unit means that its output is 0:

    conv.weight[i] = 0, conv.bias[i] = 0, norm.weight[i] = 0, norm.bias[i] = 0

Zeroing the convolution alone is not enough: the normalisation would still send out bias - mean * weight / std.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harden.types import Contract, Cost, Filter, Images, Suspect


class Classifier(nn.Module):
    """A network with its normalisation in front, which counts the images that pass through it."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, contract: Contract, cost: Cost | None = None) -> None:
        super().__init__()
        self.network = network
        self.contract = contract
        self.cost = cost if cost is not None else Cost()
        self.register_buffer("mean", torch.tensor(contract.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(contract.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network((pixels - self.mean) / self.std)
        self.cost.forward_images += len(pixels)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.cost.backward_images += len(gradient)

    def copy(self) -> Classifier:
        """An independent network that goes on counting on the same bill."""
        return Classifier(deepcopy(self.network), self.contract, self.cost).to(self.mean.device)


def classifier(suspect: Suspect, cost: Cost | None = None) -> Classifier:
    """A private copy of the suspect that methods may change."""
    return Classifier(deepcopy(suspect.module), suspect.contract, cost).eval()


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Gives a model back as it was: modes, gradients, requires_grad, parameters' and buffers' values."""
    modes = [(m, m.training) for m in model.modules()]
    grads = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    buffers = [(b, b.clone()) for b in model.buffers()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, grad, requires in grads:
            parameter.grad = grad
            parameter.requires_grad_(requires)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


@dataclass(frozen=True, eq=False)
class Unit:
    """A convolution and the normalisation that follows it."""

    name: str
    """The convolution's name inside the network."""
    conv: nn.Conv2d
    norm: _BatchNorm | None
    norm_name: str = ""

    @property
    def width(self) -> int:
        return self.conv.out_channels

    def parameters(self) -> list[nn.Parameter]:
        """Everything whose row i belongs to filter i."""
        found = [self.conv.weight, self.conv.bias]
        if self.norm is not None:
            found += [self.norm.weight, self.norm.bias]
        return [p for p in found if p is not None]

    def gate_parameters(self) -> list[nn.Parameter]:
        """The last affine step of the unit, which is where its gate sits."""
        if self.norm is not None and self.norm.weight is not None:
            return [p for p in (self.norm.weight, self.norm.bias) if p is not None]
        return [p for p in (self.conv.weight, self.conv.bias) if p is not None]

    def filters(self) -> list[Filter]:
        return [Filter(self.name, i) for i in range(self.width)]


def units(model: Classifier) -> dict[str, Unit]:
    """Every convolution that a forward pass reaches, in the order of the pass, with its normalisation."""
    makers: dict[int, str] = {}
    order: list[str] = []
    norms: dict[str, tuple[str, _BatchNorm]] = {}
    consumers: dict[str, int] = {}
    alive: list[Tensor] = []  # ids are only unique among living tensors

    def leave_conv(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            makers[id(output)] = name
            alive.append(output)
            if name not in order:
                order.append(name)

        return hook

    def enter_norm(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            maker = makers.get(id(inputs[0]))
            if maker is not None and isinstance(module, _BatchNorm):
                consumers[maker] = consumers.get(maker, 0) + 1
                norms[maker] = (name, module)

        return hook

    modules = dict(model.network.named_modules())
    handles = []
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(leave_conv(name)))  # type: ignore[arg-type]
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_hook(enter_norm(name)))  # type: ignore[arg-type]
    spent = model.cost.forward_images
    try:
        with borrowed(model), torch.no_grad():
            model.eval()
            model(torch.zeros(1, *model.contract.input_size, device=model.mean.device))
    finally:
        model.cost.forward_images = spent
        for handle in handles:
            handle.remove()
    found = {}
    for name in order:
        conv = modules[name]
        assert isinstance(conv, nn.Conv2d)
        norm_name, norm = norms.get(name, ("", None))
        found[name] = Unit(name, conv, norm, norm_name)
    return found


def close(parts: dict[str, Unit], filters: Iterable[Filter]) -> None:
    """Closes filters for good: their weights are zero from now on (until somebody trains them)."""
    with torch.no_grad():
        for layer, index in filters:
            for parameter in parts[layer].parameters():
                parameter[index] = 0


@contextmanager
def closed(parts: dict[str, Unit], filters: Sequence[Filter]) -> Iterator[None]:
    """Closes filters for the length of a with-block."""
    saved = [[p[f.index].detach().clone() for p in parts[f.layer].parameters()] for f in filters]
    close(parts, filters)
    try:
        yield
    finally:
        with torch.no_grad():
            for (layer, index), rows in zip(reversed(filters), reversed(saved), strict=True):
                for parameter, row in zip(parts[layer].parameters(), rows, strict=True):
                    parameter[index] = row


def gate_gradients(parts: dict[str, Unit]) -> dict[str, Tensor]:
    """Gradient with respect to a gate g = 1 on every filter's output, from the parameters' own gradients.

    A unit's last step is affine in its parameters w, so g * out(w) = out(g * w) and dL/dg_i = <w_i, dL/dw_i>:
    it costs nothing beyond the backward pass that fills the gradients.
    """
    gates = {}
    for name, unit in parts.items():
        gate = torch.zeros(unit.width, device=unit.conv.weight.device)
        for parameter in unit.gate_parameters():
            if parameter.grad is not None:
                gate += (parameter.detach() * parameter.grad).flatten(1).sum(1) if parameter.dim() > 1 else (
                    parameter.detach() * parameter.grad
                )
        gates[name] = gate
    return gates


@torch.no_grad()
def predict(model: Classifier, images: Images | Tensor, batch: int = 256) -> Tensor:
    """Logits, in eval mode, batch by batch."""
    pixels = images.pixels if isinstance(images, Images) else images
    with borrowed(model):
        model.eval()
        return torch.cat([model(part) for part in pixels.split(batch)])


def as_logits(outputs: Tensor) -> Tensor:
    """Logits as they are; probabilities as their logarithm.

    A network with a softmax at its end sends out p. Since softmax(log p) = p, log p is a valid vector of logits
    for it, and cross-entropy on log p is what the published formulas mean.
    """
    with torch.no_grad():
        probabilities = bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() < 1e-4).all())
    return outputs.clamp_min(1e-12).log() if probabilities else outputs
