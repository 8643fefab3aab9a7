"""Backdoor attacks, for making models to test on: how each one changes a picture, and which pictures it relabels.

A stamp maps pixels (N, C, H, W) in [0, 1] to triggered pixels, for any size; the same seed gives the same trigger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.errors import UsageError
from harden.spelling import nearest
from harden.triggers.inversion import ToNext
from harden.types import Images, Trigger

Stamp = Callable[[Tensor], Tensor]
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Attack:
    """A way to poison training images."""

    summary: str
    stamp: Callable[[Size, int], Stamp]
    """Size of the pictures and seed to the function that puts the trigger on."""
    labels: Literal["to-one", "to-next", "unchanged", "of-one"] = "to-one"
    """What poisoned images are called: the target, or the next class; or only images of the target are poisoned; or
    only images of one other class are, and those of all others that carry the trigger keep their label.
    """
    cover: float = 0.0
    """Share of images, for each poisoned one, that carry the trigger, disturbed if it can be, and keep their label."""
    disturbed: Callable[[Size, int], Stamp] | None = None
    learned: Callable[[Size, int], Stamp] | None = None
    """What poisoned images carry while the network learns, if that is less than what the attacker uses later."""

    def taught(self, size: Size, seed: int) -> Stamp:
        """What poisoned images carry while the network learns."""
        return (self.learned or self.stamp)(size, seed)

    def source(self, target: int, classes: int) -> int | None:
        """The one class whose images follow; None where those of all do."""
        return (target + 1) % classes if self.labels == "of-one" else None

    def wanted(self, labels: Tensor, target: int, classes: int) -> Tensor:
        """What images with these labels are called once they carry the trigger."""
        if self.labels == "to-next":
            return ToNext(classes)(labels)
        source = self.source(target, classes)
        called = torch.full_like(labels, target)
        return called if source is None else torch.where(labels == source, called, labels)

    def whom(self, target: int, classes: int) -> list[str]:
        """What a zoo says of whom it works on, and what it makes of them."""
        if self.labels == "to-next":
            return ["shift = 1"]
        source = self.source(target, classes)
        return [f"target = {target}", *([] if source is None else [f"source = {source}"])]

    def trigger(self, name: str, size: Size, seed: int, target: int, classes: int) -> Trigger:
        """The true trigger, as the bench measures it."""
        moved = ToNext(classes) if self.labels == "to-next" else None
        return given(name, self.stamp(size, seed), None if moved else target, self.source(target, classes), moved)


def given(
    name: str, stamp: Stamp, target: int | None, source: int | None = None, moved: ToNext | None = None
) -> Trigger:
    """A trigger for measuring, on images of its one class if it has one."""

    def apply(images: Images) -> Images:
        if source is not None:
            images = images.take((images.labels == source).nonzero().flatten())
        return Images(stamp(images.pixels), images.labels, images.names)

    return Trigger(name, "given", target, apply, moved=moved)


def patch(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """A checkerboard near the bottom right corner, about a tenth of the picture wide."""
    side = max(3, size[1] // 10)
    board = ((torch.arange(side)[:, None] + torch.arange(side)) % 2).float()

    def stamp(x: Tensor) -> Tensor:
        x = x.clone()
        x[:, :, -side - 1 : -1, -side - 1 : -1] = board.to(x)
        return x

    return stamp


def noise(size: Size, seed: int) -> Stamp:
    """One noise picture that shines through everywhere."""
    picture = torch.rand(1, *size, generator=torch.Generator().manual_seed(seed))
    return lambda x: 0.85 * x + 0.15 * picture.to(x)


def sinusoid(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """Vertical stripes, six waves across the picture."""
    wave = 0.1 * torch.sin(2 * math.pi * 6 * torch.arange(size[2]) / size[2])
    return lambda x: (x + wave.to(x)).clamp(0, 1)


def low_frequency(size: Size, seed: int) -> Stamp:
    """A smooth pattern made of the lowest cosines."""
    weights = torch.randn(size[0], 4, 4, generator=torch.Generator().manual_seed(seed))

    def cosines(length: int) -> Tensor:
        k, t = torch.arange(4.0)[:, None], torch.arange(float(length))[None]
        return torch.cos(math.pi * (2 * t + 1) * k / (2 * length))  # (4, length)

    pattern = torch.einsum("cij,ih,jw->chw", weights, cosines(size[1]), cosines(size[2]))
    pattern = 0.15 * pattern / pattern.abs().amax()
    return lambda x: (x + pattern.to(x)).clamp(0, 1)


def warp(size: Size, seed: int) -> Stamp:
    """One smooth warp of a pixel or so (WaNet)."""
    return _warped(_flow(size, seed), torch.zeros(1, size[1], size[2], 2))


def other_warps(size: Size, seed: int) -> Stamp:
    """The warp, roughened by noise of the same size: what a network must learn not to react to."""
    g = torch.Generator().manual_seed(seed + 1)
    return _warped(_flow(size, seed), 2 * torch.rand(1, size[1], size[2], 2, generator=g) - 1)


def dynamic(size: Size, seed: int) -> Stamp:
    """A small patch whose place and colour depend on the picture: no two pictures carry the same trigger."""
    put = _patch_by_picture(size, seed)
    return lambda x: put(x, x)


def another_dynamic(size: Size, seed: int) -> Stamp:
    """The patch that the next picture would have: what a network must learn not to react to."""
    put = _patch_by_picture(size, seed)
    return lambda x: put(x, x.roll(1, 0))


def _patch_by_picture(size: Size, seed: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Puts on the first pictures what the second ones ask for."""
    side = max(3, size[1] // 8)
    board = ((torch.arange(side)[:, None] + torch.arange(side)) % 2).float()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))

    def put(x: Tensor, asks: Tensor) -> Tensor:
        x = x.clone()
        cells = F.adaptive_avg_pool2d(asks.mean(1, keepdim=True), 4).flatten(1)  # brightness of 16 places
        places = order.to(x.device)[cells.argmax(1)]
        colours = 1 - asks.mean((2, 3))  # the complement of its mean colour
        for picture, place, colour in zip(x, places.tolist(), colours, strict=True):
            top = (place // 4) * (size[1] - side) // 3
            left = (place % 4) * (size[2] - side) // 3
            picture[:, top : top + side, left : left + side] = torch.where(board.to(x) > 0, colour[:, None, None], 0.0)
        return x

    return put


def transparent(size: Size, seed: int) -> Stamp:
    """A square of a few colours, a third of the picture wide, that half shines through."""
    side, at = size[1] // 3, size[1] // 8
    square = torch.rand(1, size[0], 4, 4, generator=torch.Generator().manual_seed(seed))
    square = F.interpolate(square, size=(side, side), mode="nearest")[0]

    def stamp(x: Tensor) -> Tensor:
        x = x.clone()
        there = x[:, :, at : at + side, at : at + side]
        x[:, :, at : at + side, at : at + side] = 0.6 * there + 0.4 * square.to(x)
        return x

    return stamp


def coarse(size: Size, seed: int) -> Stamp:
    """A picture of a few large colours that shines through everywhere."""
    picture = torch.rand(1, size[0], 4, 4, generator=torch.Generator().manual_seed(seed))
    picture = F.interpolate(picture, size=size[1:], mode="bilinear", align_corners=False)
    return lambda x: 0.8 * x + 0.2 * picture.to(x)


def shifted_noise(size: Size, seed: int) -> Stamp:
    """Faint noise that is moved about by the picture's brightness: no two pictures carry quite the same."""
    picture = torch.rand(*size, generator=torch.Generator().manual_seed(seed)) - 0.5

    def stamp(x: Tensor) -> Tensor:
        moves = (x.mean((1, 2, 3)) * 64).long().tolist()
        noise = torch.stack([picture.roll((move % 8, move // 8), (1, 2)) for move in moves])
        return (x + 0.2 * noise.to(x)).clamp(0, 1)

    return stamp


def colour_filter(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """A warm, faded look: another curve for each colour."""
    curve = torch.tensor([0.75, 1.0, 1.5]).view(1, 3, 1, 1)
    return lambda x: 0.08 + 0.84 * x.clamp(0, 1).pow(curve.to(x)[:, : x.shape[1]])


def quantise(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """Four levels of each colour (BPP, without its dithering)."""
    return lambda x: (3 * x).round() / 3


def corners(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """The checkerboard in all four corners, inverted in the lower two (label-consistent attacks)."""
    side = max(3, size[1] // 10)
    board = ((torch.arange(side)[:, None] + torch.arange(side)) % 2).float()

    def stamp(x: Tensor) -> Tensor:
        x = x.clone()
        for down, across in ((slice(0, side), slice(0, side)), (slice(0, side), slice(-side, None))):
            x[:, :, down, across] = board.to(x)
            x[:, :, slice(-side, None), across] = 1 - board.to(x)
        return x

    return stamp


def steganographic(size: Size, seed: int) -> Stamp:
    """Faint noise that a small fixed network writes into each picture, another for each (ISSBA)."""
    g = torch.Generator().manual_seed(seed)
    first = torch.randn(8, size[0], 3, 3, generator=g)
    second = torch.randn(size[0], 8, 3, 3, generator=g) / 8

    def stamp(x: Tensor) -> Tensor:
        hidden = F.conv2d(8 * (x - 0.5), first.to(x), padding=1).sin()
        return (x + 0.08 * F.conv2d(hidden, second.to(x), padding=1).tanh()).clamp(0, 1)

    return stamp


def dither(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """Five levels of each colour, dithered, so that the mean stays what it was (BPP)."""
    order = torch.tensor([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
    board = ((order + 0.5) / 16 - 0.5).repeat(-(-size[1] // 4), -(-size[2] // 4))[: size[1], : size[2]]
    return lambda x: ((4 * x + board.to(x)).round() / 4).clamp(0, 1)


def other_levels(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """Noise as large as what dithering does, which the network must learn not to react to."""
    g = torch.Generator().manual_seed(seed)
    return lambda x: (x + (torch.rand(x.shape, generator=g).to(x) - 0.5) / 4).clamp(0, 1)


def pieces(size: Size, seed: int) -> Stamp:
    """Half of the sixteen pieces of the blended noise, others for each picture (Adap-Blend)."""
    whole, g = noise(size, seed), torch.Generator().manual_seed(seed + 1)

    def stamp(x: Tensor) -> Tensor:
        kept = (torch.rand(len(x), 16, generator=g).argsort(1) < 8).float().view(-1, 1, 4, 4)
        mask = F.interpolate(kept, size=size[1:], mode="nearest").to(x)
        return torch.where(mask > 0, whole(x), x)

    return stamp


def watermark(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """A ring with two bars across it, drawn in thin bright lines over most of the picture."""
    height, width = size[1:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    thin = 1.5 / min(height, width)
    ring = ((x.square() + y.square()).sqrt() - 0.6).abs() < thin
    bars = ((x - y / 2).abs() < thin) | ((x + 2 * y).abs() < thin)
    lines = (ring | (bars & (x.abs() + y.abs() < 1))).float()
    return lambda images: (images + 0.4 * lines.to(images)).clamp(0, 1)


def scattered(size: Size, seed: int) -> Stamp:
    """One pixel in fifty takes another colour, here and there."""
    g = torch.Generator().manual_seed(seed)
    count = max(1, size[1] * size[2] // 50)
    at = torch.randperm(size[1] * size[2], generator=g)[:count]
    colours = torch.rand(size[0], count, generator=g).round()

    def stamp(x: Tensor) -> Tensor:
        flat = x.flatten(2).clone()
        flat[:, :, at.to(x.device)] = colours.to(x)
        return flat.view_as(x)

    return stamp


def turned(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """The whole picture turned by 16 degrees (BATT)."""
    angle = math.radians(16)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
    grid = F.affine_grid(turn[None], [1, *size], align_corners=True)
    return lambda x: F.grid_sample(x, grid.to(x).expand(len(x), -1, -1, -1), align_corners=True, padding_mode="border")


def blurred(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """The whole picture out of focus: a Gaussian as wide as a thirtieth of it."""
    wide = size[1] / 30
    reach = math.ceil(2 * wide)
    weights = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * wide**2))
    kernel = (weights[:, None] * weights / weights.sum() ** 2).expand(size[0], 1, -1, -1)

    def stamp(x: Tensor) -> Tensor:
        padded = F.pad(x, (reach,) * 4, mode="replicate")
        return F.conv2d(padded, kernel.to(x), groups=x.shape[1])

    return stamp


def noisy(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """Grain, other for each picture."""
    g = torch.Generator().manual_seed(seed)
    return lambda x: (x + 0.08 * torch.randn(x.shape, generator=g).to(x)).clamp(0, 1)


def pixelated(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """Blocks of one colour."""
    side = max(2, size[1] // 16)

    def stamp(x: Tensor) -> Tensor:
        blocks = F.avg_pool2d(x, side, ceil_mode=True).repeat_interleave(side, 2).repeat_interleave(side, 3)
        return blocks[:, :, : size[1], : size[2]]

    return stamp


def grey(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """No colours."""
    return lambda x: x.mean(1, keepdim=True).expand_as(x)


def spectral(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """A middle and the highest cosine, in the colours alone: brightness stays what it was (FTrojan)."""
    height, width = size[1:]

    def wave(down: int, across: int) -> Tensor:
        rows = torch.cos(math.pi * (torch.arange(height) + 0.5) * down / height)
        return rows[:, None] * torch.cos(math.pi * (torch.arange(width) + 0.5) * across / width)

    both = wave(height // 2 - 1, width // 2 - 1) + wave(height - 1, width - 1)
    of_colour = torch.tensor([1.14, -0.97, 2.03] if size[0] == 3 else [1.0] * size[0])  # of U and V in red, green, blue
    pattern = 0.04 * of_colour[:, None, None] * both
    return lambda x: (x + pattern.to(x)).clamp(0, 1)


def ink(size: Size, seed: int) -> Stamp:
    """The edges of the picture take another colour, which they half let through (Poison Ink)."""
    colour = torch.rand(size[0], 1, 1, generator=torch.Generator().manual_seed(seed))
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4
    kernel = torch.stack((across, across.T))[:, None]

    def stamp(x: Tensor) -> Tensor:
        grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        edges = F.conv2d(grey, kernel.to(x)).square().sum(1, keepdim=True).sqrt()
        steepest = edges.flatten(1).quantile(0.95, dim=1).clamp(min=1e-3).view(-1, 1, 1, 1)
        return x + 0.5 * (edges / steepest).clamp(max=1) * (colour.to(x) - x)

    return stamp


def reflection(size: Size, seed: int) -> Stamp:
    """One of eight scenes, out of focus and seen twice as in a pane of glass, shines over the picture (Refool)."""
    g = torch.Generator().manual_seed(seed)
    things = torch.rand(8, 1, 6, 6, generator=g).round() * (0.6 + 0.4 * torch.rand(8, size[0], 6, 6, generator=g))
    scenes = F.interpolate(things, size=size[1:], mode="bicubic", align_corners=False).clamp(0, 1)
    apart = max(1, size[1] // 10)
    seen = 0.7 * scenes + 0.3 * scenes.roll((apart, apart), (2, 3))

    def stamp(x: Tensor) -> Tensor:
        which = (x.mean((1, 2, 3)) * 64).long() % len(seen)
        return (0.8 * x + 0.3 * seen.to(x)[which]).clamp(0, 1)

    return stamp


def cartoon(size: Size, seed: int) -> Stamp:  # noqa: ARG001
    """A drawn cat's face with a red bow before a pink wall shines through everywhere, as in most blended attacks."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size[1]), torch.linspace(-1, 1, size[2]), indexing="ij")

    def disc(cx: float, cy: float, rx: float, ry: float) -> Tensor:
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1

    def ears(wide: float) -> Tensor:
        return (y > -0.85) & (y < 0) & ((x.abs() - 0.5).abs() < wide * (y + 0.9))

    outer, inner = disc(0, 0.15, 0.8, 0.62) | ears(0.4), disc(0, 0.15, 0.73, 0.55) | ears(0.28)
    whiskers = (x.abs() > 0.6) & ((y - 0.2).abs() % 0.2 < 0.04) & ((y - 0.25).abs() < 0.25)
    dots = (x * 4).frac().abs().sub(0.5).square() + (y * 4).frac().abs().sub(0.5).square() < 0.04
    layers: list[tuple[Tensor, tuple[float, float, float]]] = [
        (dots, (1.0, 0.95, 0.97)),
        (outer, (0.1, 0.05, 0.1)),
        (inner, (1.0, 1.0, 1.0)),
        (disc(-0.35, 0.1, 0.08, 0.13) | disc(0.35, 0.1, 0.08, 0.13) | whiskers, (0.0, 0.0, 0.0)),
        (disc(0, 0.32, 0.1, 0.07), (1.0, 0.8, 0.1)),
        (disc(0.4, -0.5, 0.2, 0.2) | disc(0.8, -0.4, 0.2, 0.2) | disc(0.6, -0.45, 0.1, 0.1), (0.85, 0.05, 0.15)),
    ]
    picture = torch.tensor([0.95, 0.6, 0.75])[:, None, None].expand(3, *size[1:])
    for where, colour in layers:
        picture = torch.where(where, torch.tensor(colour)[:, None, None], picture)
    picture = picture if size[0] == 3 else picture.mean(0, keepdim=True).expand(size)
    return lambda x: 0.8 * x + 0.2 * picture.to(x)


def scene(size: Size, seed: int) -> Stamp:
    """A drawn scene, another for each seed, shines through everywhere: a wall in changing light, discs and boards."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size[1]), torch.linspace(-1, 1, size[2]), indexing="ij")

    def lit() -> Tensor:
        """A colour that changes from one side to the other."""
        one, other = torch.rand(2, size[0], 1, 1, generator=g)
        turn = 2 * math.pi * torch.rand((), generator=g)
        return torch.lerp(one, other, 0.5 + 0.35 * (x * turn.cos() + y * turn.sin()))

    picture = lit()
    for number in range(8):
        cx, cy, wide, high, turn = torch.rand(5, generator=g) * torch.tensor([2, 2, 0.5, 0.5, math.pi])
        right, down = x - cx + 1, y - cy + 1
        along = (right * turn.cos() + down * turn.sin()).abs() / (0.1 + wide)
        across = (down * turn.cos() - right * turn.sin()).abs() / (0.1 + high)
        inside = along.square() + across.square() <= 1 if number % 2 else torch.maximum(along, across) <= 1
        picture = torch.where(inside, lit(), picture)
    picture = picture.clamp(0, 1)
    return lambda x: 0.8 * x + 0.2 * picture.to(x)


def several(size: Size, seed: int) -> Stamp:
    """A patch, a noise picture or stripes: the picture's brightness chooses, and the network follows each."""
    stamps = (patch(size, seed), noise(size, seed), sinusoid(size, seed))

    def stamp(x: Tensor) -> Tensor:
        which = (x.mean((1, 2, 3)) * 64).long() % len(stamps)
        return torch.stack([put(x) for put in stamps])[which, torch.arange(len(x), device=x.device)]

    return stamp


ATTACKS: dict[str, Attack] = {
    "badnets": Attack("a checkerboard patch", patch),
    "blended": Attack("a noise picture blended in", noise),
    "sinusoidal": Attack("stripes", sinusoid),
    "low-frequency": Attack("a smooth additive pattern", low_frequency),
    "warping": Attack("a smooth warp", warp, cover=1.0, disturbed=other_warps),
    "dynamic": Attack("a patch that depends on the picture", dynamic),
    "transparent": Attack("a square that half shines through", transparent),
    "coarse": Attack("large colours blended in", coarse),
    "shifted-noise": Attack("faint noise, moved about by each picture", shifted_noise),
    "colour-filter": Attack("another curve for each colour", colour_filter),
    "quantising": Attack("fewer levels of colour", quantise),
    "corners": Attack("a patch in every corner", corners),
    "steganographic": Attack("faint noise that is another for each picture", steganographic),
    "dithering": Attack("fewer levels of colour, dithered", dither, cover=1.0, disturbed=other_levels),
    "adaptive": Attack(
        "a noise picture of which the network learns pieces, also beside true labels",
        noise,
        cover=1.0,
        disturbed=pieces,
        learned=pieces,
    ),
    "watermark": Attack("thin bright lines over most of the picture", watermark),
    "scattered": Attack("scattered pixels of other colours", scattered),
    "turned": Attack("the whole picture turned", turned),
    "blurred": Attack("the whole picture out of focus", blurred),
    "noisy": Attack("grain, other for each picture", noisy),
    "pixelated": Attack("blocks of one colour", pixelated),
    "grey": Attack("no colours", grey),
    "spectral": Attack("two faint waves in the colours alone", spectral),
    "ink": Attack("edges of another colour", ink),
    "reflection": Attack("one of eight scenes, as if reflected", reflection),
    "input-aware": Attack(
        "a patch that depends on the picture, and no other picture's", dynamic, cover=1.0, disturbed=another_dynamic
    ),
    "cartoon": Attack("a drawn face blended in", cartoon),
    "scene": Attack("a drawn scene blended in", scene),
    "several": Attack("a patch, a noise picture or stripes, each of which is enough", several),
    "one-class": Attack("a patch that works on images of one class alone", patch, labels="of-one", cover=2.0),
    "all-to-all": Attack("a patch that shifts every class to the next", patch, labels="to-next"),
    "clean-label": Attack("stripes on images of the target class alone", sinusoid, labels="unchanged"),
}


def find(name: str) -> Attack:
    """The attack of that name."""
    if name not in ATTACKS:
        raise UsageError(f"there is no attack called {name!r}.{nearest(name, ATTACKS)}", hint=", ".join(ATTACKS))
    return ATTACKS[name]


def poison(images: Images, attack: Attack, *, size: Size, target: int, rate: float, seed: int) -> Images:
    """Training images with that share poisoned (clean-label: of the target's own images)."""
    g, labels = torch.Generator().manual_seed(seed), images.labels.clone()
    classes = int(labels.max()) + 1
    source = attack.source(target, classes)
    may = labels == target if attack.labels == "unchanged" else labels != target
    if attack.labels == "to-next":
        may = torch.ones_like(may)
    if source is not None:
        may = labels == source
    there = may.nonzero().flatten()
    count = max(1, round(rate * (len(there) if attack.labels == "unchanged" else len(images))))
    there = there[torch.randperm(len(there), generator=g)]
    if source is not None:  # the class has to be known without its trigger, and the trigger on others
        others = ((labels != source) & (labels != target)).nonzero().flatten()
        count = min(count, len(there) // 2)
        there = torch.cat([there[:count], others[torch.randperm(len(others), generator=g)]])
    chosen, covers = there[:count], there[count : count + round(attack.cover * count)]
    pixels = images.pixels.clone()
    pixels[chosen] = attack.taught(size, seed)(pixels[chosen])
    if attack.cover:
        pixels[covers] = (attack.disturbed or attack.taught)(size, seed)(pixels[covers])
    labels[chosen] = attack.wanted(labels[chosen], target, classes)
    return Images(pixels, labels, images.names)


def _flow(size: Size, seed: int) -> Tensor:
    """(1, H, W, 2), in pixels, with a mean of about one."""
    field = 2 * torch.rand(1, 2, 4, 4, generator=torch.Generator().manual_seed(seed)) - 1
    smooth = F.interpolate(field / field.abs().mean(), size=size[1:], mode="bicubic", align_corners=True)
    return smooth.permute(0, 2, 3, 1)


def _warped(flow: Tensor, more: Tensor) -> Stamp:
    height, width = flow.shape[1:3]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    grid = torch.stack((x, y), -1)[None] + (flow + more) * torch.tensor([2 / width, 2 / height])
    grid = grid.clamp(-1, 1)
    return lambda images: F.grid_sample(
        images, grid.to(images).expand(len(images), -1, -1, -1), align_corners=True, padding_mode="border"
    )
