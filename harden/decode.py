"""One image file to numbers: every mode that Pillow knows, as pixels in [0, 1]."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pixels = NDArray[np.float32]
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Channels that a network may take, and Pillow's name for them."""


class UnreadableError(Exception):
    """Why an image cannot be used, in words."""


def read_picture(path: Path, size: tuple[int, int, int]) -> tuple[Pixels, tuple[str, ...]]:
    """Pixels (C, H, W) of the first frame, upright, and what had to be done to them."""
    channels, height, width = size
    done: list[str] = []
    try:
        with warnings.catch_warnings(), Image.open(path) as opened:
            warnings.simplefilter("ignore")  # half-broken metadata; sizes that are dangerous raise by themselves
            if getattr(opened, "n_frames", 1) > 1:
                done.append("first frame of several")
            opened.seek(0)
            opened.load()
            picture: Image.Image = ImageOps.exif_transpose(opened)
            if picture.mode.startswith(("I", "F")):
                done.append(f"{picture.mode} scaled to [0, 1]")
                grey = _resized(Image.fromarray(_deep(picture)), width, height, done)
                bands = [grey] * min(channels, 3) + [np.ones_like(grey)] * (channels == 4)
                return np.asarray(np.stack(bands), dtype=np.float32), tuple(done)
            if picture.mode != MODES[channels]:
                done.append(f"{picture.mode} to {MODES[channels]}")
                picture = picture.convert(MODES[channels])
            flat = np.asarray(_resized(picture, width, height, done), dtype=np.float32) / np.float32(255)
    except Exception as error:  # Pillow's plug-ins raise whatever they like on broken files
        raise UnreadableError(f"{type(error).__name__}: {str(error)[:120]}") from None
    return (flat[None] if flat.ndim == 2 else np.ascontiguousarray(flat.transpose(2, 0, 1))), tuple(done)


def _deep(picture: Image.Image) -> Pixels:
    """Grey images of 16 and 32 bits, and of floats, which Pillow's own conversion would clip at 255."""
    numbers = np.asarray(picture).astype(np.float32)
    if not np.isfinite(numbers).all():
        raise UnreadableError("it has pixels that are no numbers")
    top = float(numbers.max(initial=0))
    if picture.mode == "F":
        full = 1.0 if top <= 1 else 255.0 if top <= 255 else 65535.0
    else:
        full = 65535.0 if top <= 65535 else float(2**31 - 1)
    return np.asarray(np.clip(numbers / full, 0, 1), dtype=np.float32)


def _resized(picture: Image.Image, width: int, height: int, done: list[str]) -> NDArray[Any]:
    if picture.size != (width, height):
        done.append(f"resized to {width}x{height}")
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(picture)
