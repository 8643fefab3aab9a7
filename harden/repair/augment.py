"""Light augmentations: images and a generator in, images of the same shape out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.network import Classifier, predict
from harden.types import Images

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class CropAndFlip:
    """A random crop of the padded picture, and a mirror image where the classes allow it."""

    padding: int = 4
    flip: bool = False
    """Off by default: mirrored signs and digits are other signs and digits, or none."""

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        n, _, h, w = pixels.shape
        if self.padding:
            padded = F.pad(pixels, (self.padding,) * 4)
            top, left = torch.randint(2 * self.padding + 1, (2, n, 1), generator=generator).to(pixels.device)
            rows = (top + torch.arange(h, device=pixels.device))[:, None, :, None]  # (N, 1, H, 1)
            columns = (left + torch.arange(w, device=pixels.device))[:, None, None, :]  # (N, 1, 1, W)
            image = torch.arange(n, device=pixels.device)[:, None, None, None]
            channel = torch.arange(pixels.shape[1], device=pixels.device)[None, :, None, None]
            pixels = padded[image, channel, rows, columns]
        if self.flip:
            mirrored = (torch.rand(n, generator=generator) < 0.5).to(pixels.device)
            pixels = torch.where(mirrored[:, None, None, None], pixels.flip(3), pixels)
        return pixels


def turned(pixels: Tensor, generator: torch.Generator, angle: float, stretch: float, shift: float) -> Tensor:
    """Each picture turned by at most so many radians, stretched along each side and moved by at most such a share."""

    def draw(*shape: int) -> Tensor:
        return (2 * torch.rand(len(pixels), *shape, generator=generator) - 1).to(pixels.device)

    turn, sides = angle * draw(), 1 + stretch * draw(2)
    flow = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(-1, 2, 2) * sides[:, None]
    flow = torch.cat([flow, shift * draw(2, 1)], 2)
    grid = F.affine_grid(flow, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False, padding_mode="border")


def mixed(pixels: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture with another one shining through it, by any share."""
    share = torch.rand(len(pixels), 1, 1, 1, generator=generator).to(pixels.device)
    return share * pixels + (1 - share) * others


def published(model: Classifier, images: Images, seed: int) -> CropAndFlip:
    """The random crops and mirror images of the published defences, as far as this network takes them."""
    return tolerated(model, images, CropAndFlip(images.pixels.shape[-1] // 8, flip=True), seed)


def tolerated(model: Classifier, images: Images, wanted: CropAndFlip, seed: int, max_drop: float = 0.03) -> CropAndFlip:
    """As much of an augmentation as the network itself already takes for the same picture.

    Nobody has to say whether a mirrored image keeps its class: a network that was trained on mirrored images still
    knows them, and one that was not should not be taught them now.
    """
    plain = int((predict(model, images).argmax(1) == images.labels).sum())

    def taken(augment: CropAndFlip) -> bool:
        pixels = augment(images.pixels, torch.Generator().manual_seed(seed))
        right = int((predict(model, pixels).argmax(1) == images.labels).sum())
        return plain - right <= max_drop * len(images)

    padding = wanted.padding
    while padding and not taken(CropAndFlip(padding, flip=False)):
        padding -= 1
    return CropAndFlip(padding, flip=wanted.flip and taken(CropAndFlip(0, flip=True)))
