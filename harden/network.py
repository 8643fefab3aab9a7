"""The network as every stage sees it: pixels in, logits out, and filters that can be closed and opened again.

A *unit* is a convolution with the normalisation that really follows it: found by following tensors through one
forward pass, never by the order of parameters, and only where nothing else reads the convolution and nothing else
feeds the normalisation. Closing filter i of a unit means that the unit's output is 0:

    conv.weight[i] = 0, conv.bias[i] = 0, norm.weight[i] = 0, norm.bias[i] = 0

Zeroing the convolution alone is not enough: the normalisation would still send out bias - mean * weight / std.

A linear layer that is applied at each place of a map of features is a convolution of one pixel written otherwise.
ConvNeXt has most of its weights in pairs of them. The first of a pair, whose outputs the second alone reads, counts as
a convolution; the second one adds to the residual stream, whose channels are normalised together and cannot go.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harden.softmax import before_softmax
from harden.types import Contract, Cost, Filter, Images, Suspect

_EVERY = frozenset(vars(nn.Module()))


class Classifier(nn.Module):
    """A network with its normalisation in front and no softmax behind, which counts the images that pass through it."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, contract: Contract, cost: Cost | None = None) -> None:
        super().__init__()
        self.network = network
        self.contract = contract
        self.cost = cost if cost is not None else Cost()
        self.plain: frozenset[bool] = frozenset()
        """In training or not: where the network is known to end in no softmax. Some have one only outside of it."""
        self.layout: torch.memory_format | None = None
        """How pictures lie in memory; not known before the first of them comes."""
        self.register_buffer("mean", torch.tensor(contract.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(contract.std).view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        images = (pixels - self.mean) / self.std
        if self.layout is None:
            self.layout = fastest(self.network, images)
        images = images.clone(memory_format=self.layout)  # contiguous() does nothing to pictures of one channel
        logits: Tensor
        if self.network.training in self.plain:
            logits = self.network(images)
        else:
            logits, softened = before_softmax(self.network, images)
            self.plain |= frozenset() if softened else {self.network.training}
        self.cost.forward_images += len(pixels)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.cost.backward_images += len(gradient)

    def copy(self) -> Classifier:
        """An independent network that goes on counting on the same bill."""
        made = Classifier(deepcopy(self.network), self.contract, self.cost).to(self.mean.device)
        made.plain, made.layout = self.plain, self.layout
        return made


def classifier(suspect: Suspect, cost: Cost | None = None) -> Classifier:
    """A private copy of the suspect that methods may change."""
    return Classifier(deepcopy(suspect.module), suspect.contract, cost).eval()


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Gives a model back as it was: modes, gradients, requires_grad and the buffers' values; not the parameters'.

    What its modules remember of a pass inside is forgotten: timm's attention keeps its biases with the history of their
    gradients, and such a network cannot be copied any more. Inside, gradients start from nothing, so that those of the
    owner are not added to.
    """
    modes = [(m, m.training) for m in model.modules()]
    grads = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    buffers = [(b, b.clone()) for b in model.buffers()]
    caches = [(cache, dict(cache)) for m in model.modules() for cache in _caches(m)]
    for parameter, _, _ in grads:
        parameter.grad = None
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
        for cache, content in caches:
            cache.clear()
            cache.update(content)


@torch.no_grad()
def fastest(network: nn.Module, images: Tensor) -> torch.memory_format:
    """The layout of pictures that convolutions like best, if the network takes it.

    On a CPU they are up to a third faster with channels last. But `x.view(len(x), -1)`, which many a network flattens
    its features with, refuses such a layout, and only a pass shows that.
    """
    if images.device.type != "cpu":
        return torch.contiguous_format

    def answer(layout: torch.memory_format) -> Tensor:
        return torch.as_tensor(network(images[:1].clone(memory_format=layout)))

    with borrowed(network), _unheard(network):
        network.eval()
        try:
            wanted = answer(torch.contiguous_format)
            found = answer(torch.channels_last)
        except Exception:  # whatever is wrong with it otherwise is said where it is used
            return torch.contiguous_format
    near = 1e-3 * float(wanted.nan_to_num().abs().max())
    same = torch.allclose(found, wanted, rtol=1e-3, atol=near, equal_nan=True)
    return torch.channels_last if same else torch.contiguous_format


@contextmanager
def _unheard(network: nn.Module) -> Iterator[None]:
    """Passes inside are not noticed by those who watch the network's modules."""
    heard = [(module, module._forward_hooks, module._forward_pre_hooks) for module in network.modules()]
    for module, after, before in heard:
        module._forward_hooks, module._forward_pre_hooks = type(after)(), type(before)()
    try:
        yield
    finally:
        for module, after, before in heard:
            module._forward_hooks, module._forward_pre_hooks = after, before


def _caches(module: nn.Module) -> list[dict[Any, Any]]:
    """Dicts of a module's own, besides those that every module has."""
    return [value for name, value in vars(module).items() if type(value) is dict and name not in _EVERY]


@dataclass(frozen=True, eq=False)
class Unit:
    """A convolution and the normalisation that follows it."""

    name: str
    """The convolution's name inside the network."""
    conv: nn.Conv2d | nn.Linear
    norm: _BatchNorm | None
    norm_name: str = ""

    @property
    def width(self) -> int:
        return len(self.conv.weight)

    @property
    def last(self) -> nn.Module:
        """What sends out the unit's output."""
        return self.conv if self.norm is None else self.norm

    def along(self, row: Tensor) -> Tensor:
        """A number for each filter (or for each image and filter), shaped to be multiplied with the unit's output."""
        if isinstance(self.conv, nn.Linear):
            return row.reshape(-1, 1, 1, self.width)
        return row.reshape(-1, self.width, 1, 1)

    def channels_first(self, output: Tensor) -> Tensor:
        """The unit's output as a convolution would send it out."""
        return output.movedim(-1, 1) if isinstance(self.conv, nn.Linear) else output

    def parameters(self) -> list[nn.Parameter]:
        """Everything whose row i belongs to filter i."""
        layers = [self.conv] if self.norm is None else [self.conv, self.norm]
        return [p for layer in layers for p in (layer.weight, layer.bias) if isinstance(p, nn.Parameter)]

    def gate_parameters(self) -> list[nn.Parameter]:
        """The last affine step of the unit, which is where its gate sits."""
        # A convolution that standardises its weight (timm's ScaledStdConv2d) scales it by a gain of its own.
        weight = getattr(self.last, "gain", self.last.weight)
        return [p for p in (weight, self.last.bias) if isinstance(p, nn.Parameter)]

    def filters(self) -> list[Filter]:
        return [Filter(self.name, i) for i in range(self.width)]


def units(model: Classifier) -> dict[str, Unit]:
    """Every convolution that a forward pass reaches, in the order of the pass, with its normalisation."""
    try:
        calls, norms = _passes(model, graph=True)
    except RuntimeError:  # a network that can only run without gradients: whatever it writes in place then stays unseen
        calls, norms = _passes(model, graph=False)
    enters: dict[str, int] = {}
    for norm_name, _ in norms.values():
        enters[norm_name] = enters.get(norm_name, 0) + 1
    found = {}
    for name, outputs in calls.items():
        followers = [norms.get(output, ("", None)) for output in outputs]
        norm_name, norm = followers[0]
        alone = all(follower[1] is norm for follower in followers) and enters.get(norm_name) == len(outputs)
        if norm is None or not alone or norm.weight is None:
            norm_name, norm = "", None  # what others share, or what has no gate, belongs to no filter
        conv = model.network.get_submodule(name)
        assert isinstance(conv, nn.Conv2d | nn.Linear)
        found[name] = Unit(name, conv, norm, norm_name)
    return found


def _passes(model: Classifier, graph: bool) -> tuple[dict[str, list[int]], dict[int, tuple[str, _BatchNorm | None]]]:
    """One pass: the outputs of each convolution by number, and the normalisation that alone reads an output.

    A normalisation entered from elsewhere gets a negative number, so that it is known to have other feeders.
    """
    calls: dict[str, list[int]] = {}
    norms: dict[int, tuple[str, _BatchNorm | None]] = {}
    makers: dict[int, tuple[int, object]] = {}
    pointwise: dict[str, list[object]] = {}
    read_by_linear: set[object] = set()
    alive: list[object] = []  # ids are only unique among living objects

    def leave_conv(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if isinstance(module, nn.Linear):
                if output.dim() != 4:
                    return
                if inputs[0].grad_fn is not None:
                    read_by_linear.add(inputs[0].grad_fn)
                pointwise.setdefault(name, []).append(output.grad_fn)
            number = len(alive)
            alive.append((output, output.grad_fn))
            makers[id(output)] = number, output.grad_fn
            calls.setdefault(name, []).append(number)

        return hook

    def enter_norm(name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, inputs: Any) -> None:
            number, step = makers.get(id(inputs[0]), (None, None))
            # The same tensor with another grad_fn was written into on the way, by an activation in place.
            straight = number is not None and inputs[0].grad_fn is step
            assert isinstance(module, _BatchNorm)
            if number is None or not straight:
                norms[-1 - len(norms)] = name, module
            elif number in norms:  # two normalisations read one convolution: neither is its own
                norms[-1 - len(norms)] = name, module
                norms[number] = norms[number][0], None
            else:
                norms[number] = name, module

        return hook

    handles = []
    for name, module in model.network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(leave_conv(name)))
        elif isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(enter_norm(name)))
    spent = model.cost.forward_images
    try:
        with borrowed(model), torch.set_grad_enabled(graph):
            model.eval()
            size = model.contract.input_size
            logits = model(torch.zeros(1, *size, device=model.mean.device, requires_grad=graph))
    finally:
        model.cost.forward_images = spent
        for handle in handles:
            handle.remove()
    readers = _readers(logits)
    for number, step in makers.values():
        if len(readers.get(step, ())) > 1 and number in norms:
            norms[number] = norms[number][0], None
    for name, steps in pointwise.items():
        if not all(_leads_to(step, read_by_linear, readers) for step in steps):
            del calls[name]
    return calls, norms


def _leads_to(step: object, goals: Collection[object], readers: Mapping[object, Sequence[Any]]) -> bool:
    """Whether the result of a step becomes that of one of the goals, and nothing else joins it on the way."""
    while step not in goals:
        following = readers.get(step, ())
        if len(following) != 1 or len(following[0].next_functions) != 1:
            return False
        step = following[0]
    return True


def _readers(logits: Tensor) -> dict[object, list[Any]]:
    """The steps of the computation that read the result of each step."""
    readers: dict[object, list[Any]] = {}
    seen = set()
    todo: list[Any] = [logits.grad_fn]
    while todo:
        step = todo.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        for source, _ in step.next_functions:
            readers.setdefault(source, []).append(step)
            todo.append(source)
    return readers


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
        gate = torch.zeros(unit.width, device=unit.conv.weight.device, dtype=unit.conv.weight.dtype)
        for parameter in unit.gate_parameters():
            if parameter.grad is not None:
                gate += (parameter.detach() * parameter.grad).reshape(unit.width, -1).sum(1)
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

    A network whose softmax is not its very last step (softmax.py looks behind those that are) sends out p. Since
    softmax(log p) = p, log p is a valid vector of logits for it, and cross-entropy on log p is what the published
    formulas mean.
    """
    with torch.no_grad():
        probabilities = bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() < 1e-4).all())
    return outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log() if probabilities else outputs
