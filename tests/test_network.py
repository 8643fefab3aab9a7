"""Units, gates and closing, each against what autograd or a hook says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from harden.network import Classifier, borrowed, close, closed, gate_gradients, predict, units
from harden.types import Contract, Filter

SIZE = (3, 8, 8)
CONTRACT = Contract(4, ("a", "b", "c", "d"), SIZE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.2))


class Head(nn.Module):
    """Pools and classifies."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def plain(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), *middle, nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), Head(6))


class PreActivation(nn.Module):
    """The first convolution is read by a normalisation and by a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.conv(self.norm(x).relu()))  # type: ignore[no-any-return]


class Twice(nn.Module):
    """One convolution, used twice, with a normalisation of its own each time."""

    def __init__(self, same_norm: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.first = nn.BatchNorm2d(6)
        self.second = self.first if same_norm else nn.BatchNorm2d(6)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.conv(self.stem(x))).relu()
        return self.head(self.second(self.conv(x)).relu())  # type: ignore[no-any-return]


class SharedNorm(nn.Module):
    """Two convolutions before one normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.left(x)).relu() + self.norm(self.right(x)))  # type: ignore[no-any-return]


class TwoNorms(nn.Module):
    """One convolution before two normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.left, self.right = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.left(x).relu() + self.right(x))  # type: ignore[no-any-return]


class Pointwise(nn.Module):
    """Two linear layers at each place, channels last, beside a way around them, as ConvNeXt has it."""

    def __init__(self, heard: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.LayerNorm(6)
        self.first, self.second = nn.Linear(6, 9), nn.Linear(9, 6)
        self.heard = heard
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        inside = self.first(self.norm(x.movedim(1, -1)))
        y = self.second(torch.nn.functional.gelu(inside))
        if self.heard:
            y = y + inside[..., :6]
        return self.head(x + y.movedim(-1, 1))  # type: ignore[no-any-return]


class Tokens(nn.Module):
    """The same on a row of places, which is no map any more."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 4, 4)
        self.first, self.second, self.fc = nn.Linear(6, 9), nn.Linear(9, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        return self.fc(self.second(self.first(x).relu()).mean(1))  # type: ignore[no-any-return]


class Auxiliary(nn.Module):
    """A head that only training uses, and a convolution that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.aux = nn.Conv2d(6, 4, 1)
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.training:
            return self.aux(x).mean((2, 3))  # type: ignore[no-any-return]
        return self.head(x)  # type: ignore[no-any-return]


def timm_block() -> nn.Module:
    layers = pytest.importorskip("timm.layers")
    return plain(layers.BatchNormAct2d(6))


def timm_standardised() -> nn.Module:
    layers = pytest.importorskip("timm.layers")
    return nn.Sequential(layers.ScaledStdConv2d(3, 6, 3, padding=1), nn.ReLU(), Head(6))


# Name of the architecture -> how it is built, and the normalisation of each convolution.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "norm": (lambda: plain(nn.BatchNorm2d(6), nn.ReLU()), {"0": "1", "3": ""}),
    "norm, in place": (lambda: plain(nn.BatchNorm2d(6), nn.ReLU(inplace=True)), {"0": "1", "3": ""}),
    "no norm": (lambda: plain(nn.ReLU()), {"0": "", "2": ""}),
    "activation before norm": (lambda: plain(nn.ReLU(), nn.BatchNorm2d(6)), {"0": "", "3": ""}),
    "the same in place": (lambda: plain(nn.ReLU(inplace=True), nn.BatchNorm2d(6)), {"0": "", "3": ""}),
    "norm without affine": (lambda: plain(nn.BatchNorm2d(6, affine=False)), {"0": "", "2": ""}),
    "identity between": (lambda: plain(nn.Identity(), nn.BatchNorm2d(6)), {"0": "2", "3": ""}),
    "norm with activation": (timm_block, {"0": "1", "2": ""}),
    "standardised weights": (timm_standardised, {"0": ""}),
    "pre-activation": (PreActivation, {"stem": "", "conv": ""}),
    "used twice": (lambda: Twice(same_norm=False), {"stem": "", "conv": ""}),
    "used twice, same norm": (lambda: Twice(same_norm=True), {"stem": "", "conv": "first"}),
    "norm of two": (SharedNorm, {"left": "", "right": ""}),
    "two norms": (TwoNorms, {"conv": ""}),
    "pointwise": (Pointwise, {"stem": "", "first": ""}),
    "pointwise, read twice": (lambda: Pointwise(heard=True), {"stem": ""}),
    "tokens": (Tokens, {"stem": ""}),
    "auxiliary head": (Auxiliary, {"conv": ""}),
}


def network(name: str) -> Classifier:
    """With statistics and gains that are not those of a fresh network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = NETWORKS[name][0]()
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_()  # type: ignore[union-attr]
                layer.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                if layer.affine:
                    nn.init.uniform_(layer.weight, 0.5, 2)
                    nn.init.normal_(layer.bias)
    model = Classifier(module.double(), CONTRACT).double().eval()
    model.mean, model.std = model.mean.double(), model.std.double()
    return model


def images(count: int = 3) -> Tensor:
    return torch.rand(count, *SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def silenced(model: Classifier, layer: str, gate: Tensor) -> Tensor:
    """The logits with a real gate multiplied onto what leaves the unit."""
    unit = units(model)[layer]
    place = unit.conv if unit.norm is None else unit.norm
    shape = (-1,) if isinstance(unit.conv, nn.Linear) else (-1, 1, 1)
    handle = place.register_forward_hook(lambda *called: called[2] * gate.view(shape))
    try:
        return model(images())  # type: ignore[no-any-return]
    finally:
        handle.remove()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_norm_belongs_to_the_convolution_that_it_really_follows(name: str) -> None:
    assert {unit.name: unit.norm_name for unit in units(network(name)).values()} == NETWORKS[name][1]


@pytest.mark.parametrize("name", NETWORKS)
def test_gate_gradients_are_those_of_a_real_gate(name: str) -> None:
    model = network(name)
    parts = units(model)
    model(images()).logsumexp(1).sum().backward()
    cheap = gate_gradients(parts)
    for layer, unit in parts.items():
        gate = torch.ones(unit.width, dtype=torch.float64, requires_grad=True)
        (real,) = torch.autograd.grad(silenced(model, layer, gate).logsumexp(1).sum(), gate)
        torch.testing.assert_close(cheap[layer], real, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_closing_is_forcing_the_output_to_zero_and_is_undone(name: str) -> None:
    model = network(name)
    parts = units(model)
    untouched = predict(model, images())
    for layer, unit in parts.items():
        gate = torch.ones(unit.width, dtype=torch.float64)
        gate[[0, 2]] = 0
        expected = silenced(model, layer, gate).detach()
        assert not torch.equal(expected, untouched)
        with closed(parts, [Filter(layer, 0), Filter(layer, 2), Filter(layer, 0)]):
            torch.testing.assert_close(predict(model, images()), expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(predict(model, images()), untouched)
    layer = next(iter(parts))
    close(parts, [Filter(layer, 1)])
    assert not torch.equal(predict(model, images()), untouched)


def test_looking_for_units_costs_nothing_and_changes_nothing() -> None:
    model = network("norm").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    units(model)
    assert model.training
    assert model.cost.forward_images == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_units_are_found_in_a_frozen_network() -> None:
    model = network("pre-activation").requires_grad_(False)
    assert [unit.norm_name for unit in units(model).values()] == ["", ""]


def test_borrowed_gives_back_mode_gradients_and_buffers_even_after_an_error() -> None:
    model = network("norm")
    model.network[0].train()  # type: ignore[index]
    weight = model.network[0].weight  # type: ignore[index]
    weight.requires_grad_(True)
    model(images()).sum().backward()
    gradient, values = weight.grad, weight.grad.clone()
    statistics = model.network[1].running_mean.clone()  # type: ignore[index]

    def misuse() -> None:
        with borrowed(model):
            assert weight.grad is None
            model.train()
            model(images()).sum().backward()
            weight.requires_grad_(False)
            raise KeyError

    with pytest.raises(KeyError):
        misuse()
    assert weight.grad is gradient
    assert torch.equal(weight.grad, values)
    assert weight.requires_grad
    assert torch.equal(model.network[1].running_mean, statistics)  # type: ignore[index]
    assert model.network[0].training  # type: ignore[index]
    assert not model.network[1].training  # type: ignore[index]


class Remembering(nn.Module):
    """Keeps what it has computed of its parameter, as timm's attention does in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)
        self.biases = nn.Parameter(torch.ones(6))
        self.cache: dict[str, Tensor] = {}
        self.head = Head(6)

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = (2 * self.biases).view(1, -1, 1, 1)
        return self.head(self.conv(x) + self.cache["bias"])  # type: ignore[no-any-return]


def test_a_network_that_remembers_can_still_be_copied() -> None:
    model = Classifier(Remembering(), CONTRACT).eval()
    assert list(units(model)) == ["conv"]
    predict(model.copy(), torch.rand(2, *SIZE))
    assert model.network.cache == {}


def test_images_are_counted_forward_and_backward() -> None:
    model = network("norm")
    model(images(3)).sum().backward()
    predict(model.copy(), images(2))
    assert (model.cost.forward_images, model.cost.backward_images) == (5, 3)


class Flattened(nn.Module):
    """Flattens with `view`, as many tutorials do: that takes no channels-last features."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu()
        return self.fc(x.view(len(x), -1))  # type: ignore[no-any-return]


class Secretive(nn.Module):
    """Answers by how its input lies in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.as_strided((len(x), 3 * 8 * 8), (3 * 8 * 8, 1)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("network", "layout"),
    [
        (plain(nn.BatchNorm2d(6), nn.ReLU()), torch.channels_last),
        (Flattened(), torch.contiguous_format),
        (Flattened(1), torch.contiguous_format),
        (Secretive(), torch.contiguous_format),
    ],
)
def test_pictures_lie_as_the_network_takes_them(network: nn.Module, layout: torch.memory_format) -> None:
    channels = network.conv.in_channels if isinstance(network, Flattened) else 3
    contract = Contract(4, CONTRACT.classes, (channels, 8, 8), CONTRACT.mean[:channels], CONTRACT.std[:channels])
    model = Classifier(network, contract).eval()
    pixels = torch.rand(5, *contract.input_size)
    with torch.no_grad():
        expected = network((pixels - model.mean) / model.std)
        for lying in (pixels, pixels.contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(model(lying), expected)
    assert model.layout == model.copy().layout == layout


def test_looking_for_a_layout_changes_nothing_and_is_not_noticed() -> None:
    network = Flattened().train()
    passes: list[int] = []
    network.conv.register_forward_hook(lambda *called: passes.append(len(called[2])))
    model = Classifier(network, CONTRACT)
    mean = torch.nn.functional.conv2d((torch.zeros(2, *SIZE) - model.mean) / model.std, network.conv.weight, padding=1)
    model(torch.zeros(2, *SIZE))
    assert passes == [2]
    assert network.training
    assert model.cost.forward_images == 2
    assert int(network.norm.num_batches_tracked or 0) == 1
    assert network.norm.running_mean is not None
    assert network.conv.bias is not None
    moved = 0.1 * (mean.mean((0, 2, 3)) + network.conv.bias)
    torch.testing.assert_close(network.norm.running_mean, moved.detach())
