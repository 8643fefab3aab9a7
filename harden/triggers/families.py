"""Families of small changes to an image, one of which the attacker's trigger may belong to.

    x'  = change(x)                      the same change for every image
    r   = change.size()                  how small it is, in the family's own unit

A backdoor is a *strangely small* change of the right family that sends every image to one class. Each family is
a few learnable tensors; sizes are only ever compared within one family on one model, so units need not agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

ADDED = 0.003
"""How far a step moves a pixel of an additive pattern, on average."""
WAVED = 0.02
"""And the amplitude of the wave for which the loss is steepest."""


class Change(Protocol):
    """One change being learned: images in, changed images out."""

    parameters: list[Tensor]
    """What is learned."""

    def __call__(self, pixels: Tensor) -> Tensor: ...

    def size(self) -> Tensor:
        """How large the change is; differentiable."""

    def scaled(self, factor: float) -> Change | None:
        """The same change so many times as strong; None where the family knows no such thing."""


class Shrinking(Change, Protocol):
    """A change of one parameter that knows what its size does to it.

    It is learned with one length of step for all of it, and what its size costs is taken off exactly (proximal gradient
    steps). Steps as long for every number, as Adam's are, walk about in all those that do not matter: a pattern of two
    waves among hundreds is then as large as the noise beside it.
    """

    def steep(self, gradient: Tensor) -> Tensor:
        """How steep the loss is, in steps: a step goes as far as the gradient, divided by this."""

    def shrink(self, by: float) -> None:
        """In place: argmin over q of |q - p|^2 / 2 + by * size(q)."""


@runtime_checkable
class _CanShrink(Protocol):
    def shrink(self, by: float) -> None: ...


def shrinks(change: Change) -> TypeGuard[Shrinking]:
    return isinstance(change, _CanShrink)


class Family(Protocol):
    """Makes changes to start the search from."""

    @property
    def name(self) -> str: ...

    @property
    def rate(self) -> float:
        """Adam's step, in the unit of the parameters."""

    @property
    def warm(self) -> int:
        """Steps after which Adam's is as long as that: where a first long one leads past every small change, none is
        found on the way back.
        """

    @property
    def trust(self) -> float:
        """How much is to be made of a small change: less where harmless networks have small ones too."""

    @property
    def success(self) -> float:
        """Share of the images that a change has to carry along before it counts. Not every backdoor fires always; but
        four images in five follow many a harmless pattern that covers all of them, to the class of whatever is odd.
        """

    @property
    def unseen(self) -> float:
        """Share of the images that a change does not learn from, and has to carry along too before it counts."""

    def start(self, shape: tuple[int, int, int], generator: torch.Generator, device: torch.device) -> Change: ...


@dataclass(eq=False)
class _Added:
    parameters: list[Tensor]

    def __call__(self, pixels: Tensor) -> Tensor:
        return (pixels + self.parameters[0]).clamp(0, 1)

    def size(self) -> Tensor:
        pattern = self.parameters[0]
        return 32 * (pattern.square().sum() / pattern[0, 0].numel() + 1e-12).sqrt()  # L2, as if of 32x32 pixels

    def steep(self, gradient: Tensor) -> Tensor:
        steep: Tensor = gradient.square().mean().sqrt() / ADDED
        return steep

    def shrink(self, by: float) -> None:
        (pattern,) = self.parameters
        norm = pattern.norm()
        less = by * 32 / pattern[0, 0].numel() ** 0.5
        pattern.mul_((1 - less / norm.clamp_min(1e-12)).clamp_min(0))

    def scaled(self, factor: float) -> Change:
        return _Added([factor * p.detach() for p in self.parameters])


@dataclass(frozen=True)
class Additive:
    """x' = clip(x + p): blends, sinusoids, low frequencies and stored patterns. Size: the L2 norm of p."""

    name: str = "additive"
    trust: float = 1.0
    success: float = 0.95
    unseen: float = 0.0
    rate: float = 0.02
    warm: int = 0
    spread: float = 0.002
    """Standard deviation of the noise that p starts from."""

    def start(self, shape: tuple[int, int, int], generator: torch.Generator, device: torch.device) -> Change:
        pattern = self.spread * torch.randn(1, *shape, generator=generator)
        return _Added([pattern.to(device).requires_grad_()])


@dataclass(eq=False)
class _Spectral:
    parameters: list[Tensor]
    height: int
    width: int

    def __call__(self, pixels: Tensor) -> Tensor:
        down, across = (cosines(n, self.parameters[0].shape[-1], pixels.device) for n in (self.height, self.width))
        return (pixels + torch.einsum("bcij,ih,jw->bchw", self.parameters[0], down, across)).clamp(0, 1)

    def size(self) -> Tensor:
        return 10 * self.parameters[0].abs().sum()

    def scaled(self, factor: float) -> Change:
        return _Spectral([factor * p.detach() for p in self.parameters], self.height, self.width)


@dataclass(frozen=True)
class Spectral:
    """x' = clip(x + p), p of few cosines: smooth patterns, what hides in a spectrum. Size: the L1 norm of its cosine
    coefficients, which few frequencies keep small.
    """

    name: str = "spectral"
    trust: float = 1.0
    success: float = 0.95
    unseen: float = 0.0
    rate: float = 0.004
    warm: int = 0
    frequencies: int = 16
    """Along each side, from the lowest."""

    def start(self, shape: tuple[int, int, int], generator: torch.Generator, device: torch.device) -> Change:
        kept = min(self.frequencies, *shape[1:])
        weights = 1e-4 * torch.randn(1, shape[0], kept, kept, generator=generator)
        return _Spectral([weights.to(device).requires_grad_()], shape[1], shape[2])


def cosines(length: int, count: int, device: torch.device) -> Tensor:
    """The first cosines over so many pixels, each of amplitude 1: (count, length)."""
    k = torch.arange(count, device=device)[:, None]
    return torch.cos(torch.pi * (2 * torch.arange(length, device=device)[None] + 1) * k / (2 * length))


@dataclass(eq=False)
class _Waving:
    parameters: list[Tensor]  # (1, C, U, V, 2): real and imaginary part
    height: int
    width: int

    def __call__(self, pixels: Tensor) -> Tensor:
        weights = torch.view_as_complex(self.parameters[0])
        down = turns(self.height, range(weights.shape[2]), pixels.device)
        across = turns(self.width, range(-(weights.shape[3] // 2), weights.shape[3] // 2 + 1), pixels.device)
        return (pixels + torch.einsum("bcuv,uh,vw->bchw", weights, down, across).real).clamp(0, 1)

    def size(self) -> Tensor:
        amplitudes: Tensor = torch.linalg.vector_norm(self.parameters[0], dim=-1)
        return 10 * amplitudes.sum()

    def steep(self, gradient: Tensor) -> Tensor:
        steep: Tensor = torch.linalg.vector_norm(gradient, dim=-1).max() / WAVED
        return steep

    def shrink(self, by: float) -> None:
        (weights,) = self.parameters
        sizes = torch.linalg.vector_norm(weights, dim=-1, keepdim=True)
        weights.mul_((1 - 10 * by / sizes.clamp_min(1e-12)).clamp_min(0))

    def scaled(self, factor: float) -> Change:
        return _Waving([factor * p.detach() for p in self.parameters], self.height, self.width)


@dataclass(frozen=True)
class Waves(Spectral):
    """x' = clip(x + p), p of few plane waves of any direction and phase: stripes and sinusoids. Size: the sum of their
    amplitudes.

    A cosine transform knows no phase: a sine is many cosines to it, and so looks larger than it is.
    """

    name: str = "waves"
    trust: float = 0.8
    """Some class is where strange patterns go, in harmless networks too."""
    frequencies: int = 8
    """Waves along each side, less than that."""

    def start(self, shape: tuple[int, int, int], generator: torch.Generator, device: torch.device) -> Change:
        kept = min(self.frequencies, *(side // 2 for side in shape[1:]))
        weights = 1e-4 * torch.randn(1, shape[0], kept, 2 * kept - 1, 2, generator=generator)
        return _Waving([weights.to(device).requires_grad_()], shape[1], shape[2])


def turns(length: int, frequencies: range, device: torch.device) -> Tensor:
    """exp(2 pi i k t / length) over so many pixels, for each frequency k: (count, length)."""
    k = torch.arange(frequencies.start, frequencies.stop, device=device)[:, None]
    angle = 2 * torch.pi * k * torch.arange(length, device=device)[None] / length
    return torch.polar(torch.ones_like(angle), angle)


@dataclass(eq=False)
class _Pasted:
    parameters: list[Tensor]

    def __call__(self, pixels: Tensor) -> Tensor:
        mask, pattern = (p.sigmoid() for p in self.parameters)
        return (1 - mask) * pixels + mask * pattern

    def size(self) -> Tensor:
        mask = self.parameters[0].sigmoid()
        return 1024 * mask.mean()  # pixels covered, as if of 32x32

    def scaled(self, factor: float) -> Change:
        mask, pattern = (p.detach() for p in self.parameters)
        covered = (factor * mask.sigmoid()).clamp(1e-4, 1 - 1e-4)
        return _Pasted([covered.logit(), pattern.clone()])


@dataclass(frozen=True)
class Patch:
    """x' = (1 - m) x + m p: stickers, watermarks, squares. Size: the pixels that the mask m covers."""

    name: str = "patch"
    trust: float = 1.0
    success: float = 0.8
    unseen: float = 0.0
    rate: float = 0.2
    warm: int = 0

    def start(self, shape: tuple[int, int, int], generator: torch.Generator, device: torch.device) -> Change:
        mask = -3 + 0.1 * torch.randn(1, 1, *shape[1:], generator=generator)
        pattern = 0.5 * torch.randn(1, *shape, generator=generator)
        return _Pasted([mask.to(device).requires_grad_(), pattern.to(device).requires_grad_()])


@dataclass(eq=False)
class _Warped:
    parameters: list[Tensor]
    height: int
    width: int

    def flow(self) -> Tensor:
        """Displacement of every pixel, in pixels of a 32x32 image: (1, 2, H, W)."""
        points = self.parameters[0]
        return F.interpolate(points, size=(self.height, self.width), mode="bicubic", align_corners=True)

    def __call__(self, pixels: Tensor) -> Tensor:
        down = torch.linspace(-1, 1, self.height, device=pixels.device)
        across = torch.linspace(-1, 1, self.width, device=pixels.device)
        y, x = torch.meshgrid(down, across, indexing="ij")
        grid = torch.stack((x, y), -1) + self.flow()[0].permute(1, 2, 0) * (2 / 32)
        expanded = grid.expand(len(pixels), -1, -1, -1)
        return F.grid_sample(pixels, expanded, align_corners=True, padding_mode="border")

    def size(self) -> Tensor:
        return (self.flow().square().sum(1) + 1e-12).sqrt().mean()

    def scaled(self, factor: float) -> Change:
        return _Warped([factor * p.detach() for p in self.parameters], self.height, self.width)


@dataclass(frozen=True)
class Warp:
    """x' = x moved along a smooth flow. Size: the mean displacement."""

    name: str = "warp"
    trust: float = 1.0
    success: float = 0.8
    unseen: float = 0.0
    rate: float = 0.1
    warm: int = 0
    """Half of that gets so slowly to where most classes are that there is nothing to compare with."""
    points: int = 6
    """Control points along each side."""

    def start(self, shape: tuple[int, int, int], generator: torch.Generator, device: torch.device) -> Change:
        points = 0.01 * torch.randn(1, 2, self.points, self.points, generator=generator)
        return _Warped([points.to(device).requires_grad_()], shape[1], shape[2])


@dataclass(eq=False)
class _Toned:
    parameters: list[Tensor]

    def __call__(self, pixels: Tensor) -> Tensor:
        curve, mixing = self.parameters  # (C, K) offsets at K knots; (C, C)
        knots = curve.shape[1]
        place = pixels.clamp(0, 1) * (knots - 1)
        toned = pixels
        for k in range(knots):
            weight = (1 - (place - k).abs()).clamp_min(0)
            toned = toned + weight * curve[:, k].view(1, -1, 1, 1)
        return (toned + torch.einsum("dc,nchw->ndhw", mixing, pixels)).clamp(0, 1)

    def size(self) -> Tensor:
        curve, mixing = self.parameters
        return 10 * (curve.square().mean() + mixing.square().mean() + 1e-12).sqrt()

    def scaled(self, factor: float) -> Change:
        return _Toned([factor * p.detach() for p in self.parameters])


@dataclass(frozen=True)
class Tone:
    """x' = a curve for each channel and a mixing of channels: filters, gamma, quantisation. Size: their distance
    from the identity.
    """

    name: str = "tone"
    trust: float = 0.6
    """Some classes live by their colour, a speed limit's red ring among them, and are near for that."""
    success: float = 0.8
    unseen: float = 0.0
    rate: float = 0.02
    warm: int = 0
    knots: int = 9

    def start(self, shape: tuple[int, int, int], generator: torch.Generator, device: torch.device) -> Change:
        channels = shape[0]
        curve = 0.002 * torch.randn(channels, self.knots, generator=generator)
        mixing = 0.002 * torch.randn(channels, channels, generator=generator)
        return _Toned([curve.to(device).requires_grad_(), mixing.to(device).requires_grad_()])


@dataclass(eq=False)
class _Filtered:
    parameters: list[Tensor]  # (K, K), (C, C): how much of each neighbour a pixel takes, and a colour of each other
    step: int
    """Pixels from one neighbour to the next, an odd number; each stands for the mean of as many around it."""

    def __call__(self, pixels: Tensor) -> Tensor:
        (taken, mixing), channels = self.parameters, pixels.shape[1]
        beyond = F.pad(pixels, (len(taken) // 2 * self.step + self.step // 2,) * 4, mode="replicate")
        means = F.avg_pool2d(beyond, self.step, 1)
        mixed = F.conv2d(means, taken.expand(channels, 1, -1, -1), dilation=self.step, groups=channels)
        mixed = mixed + torch.einsum("dc,nchw->ndhw", mixing, pixels) - mixing.sum(1).view(1, -1, 1, 1) * pixels
        return (pixels + mixed - taken.sum() * pixels).clamp(0, 1)

    def size(self) -> Tensor:
        taken, mixing = self.parameters
        return 10 * (taken.abs().sum() + mixing.abs().sum() / len(mixing))

    def scaled(self, factor: float) -> Change:
        return _Filtered([factor * p.detach() for p in self.parameters], self.step)


@dataclass(frozen=True)
class Filter:
    """x' = x, each pixel mixed with its neighbours and each colour with the others: out of focus, sharpened, smeared,
    seen double, without colours. Size: how much is taken from all of them; as much of the pixel itself goes, so that
    pictures stay as bright as they were.
    """

    name: str = "filter"
    trust: float = 0.6
    success: float = 0.95
    unseen: float = 1 / 3
    """Blurred or sharpened pictures all look like some class: where images are few, nineteen of twenty of those that a
    change learns from follow it in a harmless network too, and three of four others.
    """
    rate: float = 0.02
    warm: int = 10
    points: int = 5
    """Neighbours along each side, a thirty-second of the picture apart."""

    def start(self, shape: tuple[int, int, int], generator: torch.Generator, device: torch.device) -> Change:
        taken = 0.002 * torch.randn(self.points, self.points, generator=generator)
        mixing = 0.002 * torch.randn(shape[0], shape[0], generator=generator)
        step = round(min(shape[1:]) / 32) // 2 * 2 + 1
        return _Filtered([taken.to(device).requires_grad_(), mixing.to(device).requires_grad_()], step)


@dataclass(eq=False)
class _Veiled:
    parameters: list[Tensor]
    share: float

    def __call__(self, pixels: Tensor) -> Tensor:
        return (1 - self.share) * pixels + self.share * self.parameters[0].sigmoid()

    def size(self) -> Tensor:
        picture = self.parameters[0].sigmoid()
        happens = picture.diff(dim=-2).abs().mean() + picture.diff(dim=-1).abs().mean()
        return 500 * self.share * happens * max(picture.shape[-2:]) / 32  # the same for pixels of any size

    def scaled(self, factor: float) -> Change:
        return _Veiled([p.detach().clone() for p in self.parameters], min(0.5, factor * self.share))


@dataclass(frozen=True)
class Veil:
    """x' = (1 - a) x + a p: another picture blended in. Size: how much happens in p, its total variation.

    A picture with shapes and edges is large to all other families, and what noise can do instead is nothing like it:
    of two patterns that lead as far, the one in which less happens is nearer to what an attacker draws.
    """

    name: str = "veil"
    trust: float = 0.8
    """In harmless networks that are often wrong some class is 1.8 times as easy to reach."""
    apart: float = 1.5
    """How many times as easy as the easiest other one a class may be called at most: in a harmless network two of
    twelve classes were 2.7 and 2.2 times as easy as the rest, where a target stands alone."""
    success: float = 0.95
    unseen: float = 0.0
    rate: float = 0.1
    warm: int = 0
    share: float = 0.2

    def start(self, shape: tuple[int, int, int], generator: torch.Generator, device: torch.device) -> Change:
        picture = 0.1 * torch.randn(1, *shape, generator=generator)
        return _Veiled([picture.to(device).requires_grad_()], self.share)


def fixed(change: Change) -> Change:
    """The change as it is now: it learns no more."""
    for parameter in change.parameters:
        parameter.requires_grad_(False)
    return change


def default_families() -> tuple[Family, ...]:
    """What the default method looks for."""
    smooth = Spectral("smooth", trust=0.8, frequencies=6)
    thin = Veil("thin veil", trust=0.9, success=0.8)  # where the trigger itself fails on one image in ten
    return (Patch(), Additive(), Waves(), smooth, Warp(), Tone(), Filter(), Veil(), thin)
