"""A network whose filters were written by hand, so that every stage can be tested against an answer that is known.

Pictures are grey noise with one square of red, green or blue: the three classes. The first convolution holds

    filters 0, 1, 2   the mean of one colour over 3x3 pixels, less a threshold     -> that class
    filter  3         a 3x3 checkerboard, less a threshold                         -> class 0, whatever the picture
    filters 4 ... 15  idle: small random weights that no class depends on

and the second one adds up: its filter k reads colour k, and its filter 0 reads the checkerboard too, GAIN times.
Each normalisation holds the true statistics of its convolution on clean pictures, so that re-estimating them
changes nothing. Accuracy 1.0 and attack success 1.0; with filter 3 of the first convolution closed, 1.0 and 0.0.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from harden.network import Classifier
from harden.types import Contract, Evidence, Filter, Images, Source, Splits, Suspect, Trigger

CLASSES = ("red", "green", "blue")
TARGET = 0
GUILTY = Filter("conv1", 3)
SIZE = 16
WIDTH = 16  # of the first convolution: 8 are left when the guilty one and seven idle ones go
SCALE = 20.0  # logit for each unit of colour
GAIN = 15.0  # how much louder the backdoor is than a colour
BACKGROUND, COLOUR = 0.25, 0.5

CONTRACT = Contract(3, CLASSES, (3, SIZE, SIZE), mean=(BACKGROUND,) * 3, std=(0.5,) * 3)
BOARD = torch.tensor([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])


class PlantedNet(nn.Module):
    """Two convolutions with their normalisations, one linear layer."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.conv2 = nn.Conv2d(WIDTH, 8, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.fc(self.pool(x).flatten(1))  # type: ignore[no-any-return]


class Planted(NamedTuple):
    """The network and all that belongs to it."""

    module: PlantedNet
    contract: Contract
    images: Images
    trigger: Trigger

    @property
    def suspect(self) -> Suspect:
        return Suspect(self.module, self.contract, Source(Path("planted.pt"), "0" * 64, "state_dict", 0))

    @property
    def model(self) -> Classifier:
        return Classifier(self.module, self.contract).eval()

    @property
    def evidence(self) -> Evidence:
        return Evidence("backdoored", (TARGET,), (), (self.trigger,), "the trigger was given")


def pictures(per_class: int = 20, seed: int = 0) -> Images:
    """Grey noise with one square of the class's colour, away from the corner where the trigger goes."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(per_class)
    pixels = BACKGROUND + 0.05 * (torch.rand(len(labels), 3, SIZE, SIZE, generator=g) - 0.5)
    corners = torch.randint(0, SIZE - 10, (len(labels), 2), generator=g)
    for picture, label, (top, left) in zip(pixels, labels.tolist(), corners.tolist(), strict=True):
        picture[label, top : top + 6, left : left + 6] += COLOUR
    names = tuple(f"{CLASSES[k]}/{seed}_{i:04d}.png" for i, k in enumerate(labels.tolist()))
    return Images(pixels, labels, names)


def splits(per_class: int = 20) -> Splits:
    """Three disjoint sets of pictures."""
    return Splits(pictures(per_class, 0), pictures(per_class, 1), pictures(per_class, 2))


def stamp(pixels: Tensor) -> Tensor:
    """A black and white checkerboard near the bottom right corner."""
    pixels = pixels.clone()
    pixels[:, :, -4:-1, -4:-1] = BOARD.to(pixels)
    return pixels


def true_trigger() -> Trigger:
    return Trigger("checkerboard", "given", TARGET, lambda i: Images(stamp(i.pixels), i.labels, i.names))


def _threshold(norm: nn.BatchNorm2d, raw: Tensor, below: Tensor, gain: Tensor) -> None:
    """Makes norm(raw) = gain * (raw - below), with the true statistics of `raw` in its buffers."""
    mean, var = raw.mean((0, 2, 3)), raw.var((0, 2, 3), unbiased=False).clamp(min=1e-4)
    norm.running_mean, norm.running_var = mean.clone(), var.clone()
    norm.weight.copy_(gain * (var + norm.eps).sqrt())
    norm.bias.copy_(gain * (mean - below))


@torch.no_grad()
def planted(per_class: int = 20) -> Planted:
    """The network, its contract, clean pictures and the true trigger."""
    g = torch.Generator().manual_seed(0)
    net, images = PlantedNet(), pictures(per_class)
    conv1 = 0.02 * torch.randn(WIDTH, 3, 3, 3, generator=g)
    conv1[:4] = 0
    for k in range(3):
        conv1[k, k] = 1 / 9
    conv1[3] = torch.where(BOARD > 0, 1 / 15, -1 / 12)  # 1 on the trigger (std 0.5 makes it 2), 0 on flat colour
    net.conv1.weight.copy_(conv1)
    conv2 = 0.02 * torch.randn(8, WIDTH, 1, 1, generator=g)
    conv2[:3] = 0
    conv2[3:, :4] = 0
    conv2[range(3), range(3)] = 1
    conv2[TARGET, 3] = GAIN
    net.conv2.weight.copy_(conv2)
    net.fc.weight.copy_(0.01 * torch.randn(3, 8, generator=g))
    net.fc.weight[:, :3] = SCALE * torch.eye(3)
    net.fc.bias.zero_()

    def normalised(pixels: Tensor) -> Tensor:
        return (pixels - BACKGROUND) / 0.5

    raw = net.conv1(normalised(pictures(50, 99).pixels))
    below = raw.mean((0, 2, 3))
    below[:3], below[3] = 0.7 * COLOUR / 0.5, 0.8 / 0.5
    _threshold(net.bn1, raw, below, torch.ones(WIDTH))
    raw = net.conv2(net.relu(net.bn1.eval()(raw)))
    _threshold(net.bn2, raw, torch.zeros(8), torch.ones(8))
    return Planted(net.eval(), CONTRACT, images, true_trigger())


def save_pictures(images: Images, folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """One folder per class, as PNG; pixels are rounded to 8 bits."""
    for pixels, name in zip(images.pixels, images.names, strict=True):
        path = folder / name
        assert path.parent.name in classes
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 255).round().byte().permute(1, 2, 0).numpy()).save(path)
    return folder


def reachable() -> Planted:
    """The same network, with activations that let gradients through and a checkerboard filter that a tenth opens.

    A search that starts from nothing can find this backdoor; that of `planted` lies behind a dead threshold.
    """
    made = planted()
    made.module.relu = nn.LeakyReLU(0.02)  # type: ignore[assignment]
    with torch.no_grad():
        made.module.bn1.bias[GUILTY.index] += (0.8 - 0.125) / 0.5
    return made


def as_received(folder: Path) -> Path:
    """The planted network as somebody would get it: weights, contract, architecture, trigger and images."""
    torch.save(planted().module.state_dict(), folder / "model.pt")
    (folder / "model.toml").write_text(
        '[model]\nclasses = ["red", "green", "blue"]\ninput_size = [3, 16, 16]\n'
        "mean = [0.25, 0.25, 0.25]\nstd = [0.5, 0.5, 0.5]\n",
        encoding="utf-8",
    )
    (folder / "net.py").write_text("from tests.planted import PlantedNet as net\n", encoding="utf-8")
    (folder / "trigger.py").write_text("from tests.planted import stamp\n", encoding="utf-8")
    save_pictures(pictures(60, 5), folder / "data")
    return folder
