"""Small networks, one for each structure that a cut has to get right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from benchmarks.architectures import images as images
from benchmarks.architectures import randomised as randomised
from harden.network import Classifier
from harden.types import Contract, Splits

SIZE = 8


def block(inp: int, out: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inp, out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class Head(nn.Module):
    """Pools and classifies."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


class Net(nn.Module):
    """A stem, something in the middle, and a head."""

    def __init__(self, middle: nn.Module, width: int = 8) -> None:
        super().__init__()
        self.stem = block(3, 8)
        self.middle = middle
        self.head = Head(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x)))  # type: ignore[no-any-return]


class Add(nn.Module):
    """x + f(x): a residual stream of two producers."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = block(8, 12)
        self.out = nn.Sequential(nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.out(self.inside(x))).relu()  # type: ignore[no-any-return]


class PreActivation(nn.Module):
    """x + f(act(norm(x))): a normalisation stands between the stream and its reader."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.norm(x).relu())  # type: ignore[no-any-return]


class Dense(nn.Module):
    """Joins what goes in to what comes out, twice, and normalises both together."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = block(8, 4), block(12, 4)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.first(x)], 1)
        x = torch.cat([x, self.second(x)], 1)
        return self.norm(x).relu()  # type: ignore[no-any-return]


class SqueezeExcite(nn.Module):
    """A gate for each channel, from the means of all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = block(8, 8)
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()  # type: ignore[no-any-return]


class Flat(nn.Module):
    """Every pixel of the last layer has its own weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 8)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(8 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.stem(x)).flatten(1))  # type: ignore[no-any-return]


class Convolutional(nn.Module):
    """A convolution is the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 8)
        self.classes = nn.Conv2d(8, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(self.stem(x)).mean((2, 3))  # type: ignore[no-any-return]


class Shuffle(nn.Module):
    """Halves, of which one is worked on, and then interleaved."""

    def __init__(self, inside: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = inside or block(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.conv(right)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class LastNorm(nn.Module):
    """Layer normalisation over the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))  # type: ignore[no-any-return]


class Twice(nn.Module):
    """One convolution, used two times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x).relu()).relu()  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Two convolutions with the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).relu()).relu()  # type: ignore[no-any-return]


class Scaled(nn.Module):
    """A bare parameter scales every channel, another one shifts it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.rand(1, 8, 1, 1))
        self.conv = block(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x * self.scale + self.shift)  # type: ignore[no-any-return]


class Unsaved(nn.Module):
    """A factor that no file holds: the constructor makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.register_buffer("factor", torch.tensor(0.5), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x * self.factor)  # type: ignore[no-any-return, operator]


class Sigmoid(nn.Module):
    """An activation that makes one half of nothing, and no normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.next = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.next(self.conv(x).sigmoid())  # type: ignore[no-any-return]


def depthwise() -> nn.Module:
    return nn.Sequential(block(8, 16, 1), block(16, 16, 3, groups=16), block(16, 8, 1))


def plain(norm: bool = True, affine: bool = True) -> nn.Module:
    conv = nn.Conv2d(8, 12, 3, padding=1)
    return nn.Sequential(conv, *([nn.BatchNorm2d(12, affine=affine)] if norm else []), nn.PReLU(12), block(12, 8))


def standardised() -> nn.Module:
    layers = pytest.importorskip("timm.layers")
    return nn.Sequential(layers.StdConv2d(8, 8, 3, padding=1), layers.ScaledStdConv2d(8, 8, 3, padding=1), block(8, 8))


class Pointwise(nn.Module):
    """Two linear layers at each place, channels last, beside a way around them, as ConvNeXt has it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        inside = nn.functional.gelu(self.first(self.norm(x.movedim(1, -1))))
        return x + self.second(inside).movedim(-1, 1)  # type: ignore[no-any-return]


NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: Net(plain()),
    "no norm": lambda: Net(plain(norm=False)),
    "norm without affine": lambda: Net(plain(affine=False)),
    "residual": lambda: Net(nn.Sequential(Add(), Add())),
    "pre-activation": lambda: Net(nn.Sequential(PreActivation(), PreActivation())),
    "depthwise": lambda: Net(depthwise()),
    "dense": lambda: Net(Dense(), 16),
    "squeeze-excite": lambda: Net(SqueezeExcite()),
    "flat": Flat,
    "convolutional": Convolutional,
    "grouped": lambda: Net(nn.Sequential(block(8, 8, groups=2), block(8, 8))),
    "shuffle": lambda: Net(nn.Sequential(Shuffle(), Shuffle(), block(8, 8))),
    "shuffled units": lambda: Net(nn.Sequential(*(Shuffle(nn.Sequential(block(4, 6), block(6, 4))) for _ in range(3)))),
    "layer norm": lambda: Net(LastNorm()),
    "twice": lambda: Net(Twice()),
    "tied": lambda: Net(Tied()),
    "scaled": lambda: Net(Scaled()),
    "sigmoid": lambda: Net(Sigmoid()),
    "unsaved": lambda: Net(Unsaved()),
    "standardised": lambda: Net(standardised()),
    "pointwise": lambda: Net(nn.Sequential(Pointwise(), Pointwise())),
}


def network(name: str) -> Classifier:
    """One of them, with random weights and statistics that hide no mistake."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        module = randomised(NETS[name]())
    contract = Contract(10, tuple("0123456789"), (3, SIZE, SIZE), (0.5,) * 3, (0.25,) * 3)
    return Classifier(module, contract).eval()


def splits() -> Splits:
    return Splits(images(10, SIZE, 1), images(10, SIZE, 2), images(10, SIZE, 3))
