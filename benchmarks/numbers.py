"""Two-digit numbers, drawn: a hundred classes to measure on that need no download. Colours, size, place, turn and noise
by chance; the same folder for the same seed and the same Pillow.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE, SCENE = 32, 64


def write(folder: Path, each: int = 120, seed: int = 0) -> Path:
    """A folder for each of a hundred classes, with so many pictures in it."""
    chance = random.Random(seed)
    for number in range(100):
        name = f"{number:02d}"
        (folder / name).mkdir(parents=True)
        for index in range(each):
            picture(name, chance).save(folder / name / f"{index:03d}.png")
    return folder


def picture(text: str, chance: random.Random) -> Image.Image:
    """The text on a ground with three spots of nearly its colour."""
    ground = tuple(chance.randint(0, 255) for _ in range(3))
    ink = tuple((c + chance.choice([110, 146])) % 256 for c in ground)
    scene = Image.new("RGB", (SCENE, SCENE), ground)
    draw = ImageDraw.Draw(scene)
    for _ in range(3):
        left, top = chance.randint(0, SCENE - 1), chance.randint(0, SCENE - 1)
        spot = tuple(min(255, max(0, c + chance.randint(-40, 40))) for c in ground)
        draw.ellipse((left, top, left + chance.randint(5, 30), top + chance.randint(5, 30)), fill=spot)
    font = ImageFont.load_default(size=chance.randint(36, 46))
    _, _, right, bottom = draw.textbbox((0, 0), text, font=font)
    place = ((SCENE - right) / 2 + chance.uniform(-4, 4), (SCENE - bottom) / 2 + chance.uniform(-5, 5))
    draw.text(place, text, fill=ink, font=font)
    scene = scene.rotate(chance.uniform(-12, 12), Image.Resampling.BILINEAR, fillcolor=ground)
    pixels = np.asarray(scene.resize((SIZE, SIZE), Image.Resampling.BILINEAR), dtype=float)
    noise = np.random.default_rng(chance.getrandbits(32)).normal(0, chance.uniform(2, 12), pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))
