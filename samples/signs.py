"""Twelve road signs, drawn: shape, colour and pictogram by hand; pose, light, blur, noise and surroundings by chance.

A picture depends on its seed, its class and its number, and on nothing else: picture(7, "stop", 3) is the same
picture on every run. The flat sign is drawn once, large, and then seen through a random perspective.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SIZE = 32
TEMPLATE = 256  # side of the flat drawing
SCENE = 96  # side of the scene before it is reduced to SIZE, so that edges are smooth

RED, BLUE, YELLOW = (190, 25, 35), (20, 70, 170), (245, 190, 20)
WHITE, BLACK = (240, 240, 240), (20, 20, 20)

Point = tuple[float, float]
Draw = ImageDraw.ImageDraw
Floats = NDArray[np.float64]


def polygon(corners: int, radius: float, turn: float) -> list[Point]:
    """A regular polygon about the middle; turn = 0 puts a corner on top."""
    angles = [2 * pi * k / corners + turn - pi / 2 for k in range(corners)]
    return [(128 + radius * cos(a), 128 + radius * sin(a)) for a in angles]


def disc(draw: Draw, radius: float, colour: tuple[int, int, int]) -> None:
    draw.ellipse((128 - radius, 128 - radius, 128 + radius, 128 + radius), fill=colour)


def strokes(draw: Draw, points: list[Point], width: int, colour: tuple[int, int, int]) -> None:
    draw.line(points, fill=colour, width=width, joint="curve")
    for x, y in (points[0], points[-1]):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=colour)


def ahead(draw: Draw) -> None:
    disc(draw, 122, BLUE)
    draw.rectangle((112, 110, 144, 215), fill=WHITE)
    draw.polygon([(128, 35), (70, 115), (186, 115)], fill=WHITE)


def turn_left(draw: Draw) -> None:
    disc(draw, 122, BLUE)
    draw.rectangle((100, 96, 190, 128), fill=WHITE)
    draw.rectangle((158, 96, 190, 205), fill=WHITE)
    draw.polygon([(35, 112), (110, 58), (110, 166)], fill=WHITE)


def parking(draw: Draw) -> None:
    draw.rectangle((18, 18, 238, 238), fill=BLUE)
    draw.rectangle((88, 50, 116, 210), fill=WHITE)
    draw.ellipse((75, 50, 185, 150), fill=WHITE)
    draw.ellipse((104, 78, 156, 122), fill=BLUE)
    draw.rectangle((70, 40, 87, 220), fill=BLUE)


def warning(draw: Draw) -> None:
    draw.polygon(polygon(3, 140, 0), fill=RED)
    draw.polygon([(x, y + 4) for x, y in polygon(3, 90, 0)], fill=WHITE)


def danger(draw: Draw) -> None:
    warning(draw)
    draw.polygon([(114, 80), (142, 80), (136, 142), (120, 142)], fill=BLACK)
    draw.ellipse((115, 150, 141, 176), fill=BLACK)


def crossroads(draw: Draw) -> None:
    warning(draw)
    strokes(draw, [(98, 108), (158, 170)], 22, BLACK)
    strokes(draw, [(158, 108), (98, 170)], 22, BLACK)


def give_way(draw: Draw) -> None:
    draw.polygon(polygon(3, 140, pi), fill=RED)
    draw.polygon([(x, y - 4) for x, y in polygon(3, 84, pi)], fill=WHITE)


def stop(draw: Draw) -> None:
    draw.polygon(polygon(8, 126, pi / 8), fill=WHITE)
    draw.polygon(polygon(8, 114, pi / 8), fill=RED)
    for x in (52, 94, 136, 178):  # four letters, as they look from afar
        draw.rectangle((x, 92, x + 26, 164), fill=WHITE)
    for x in (60, 102, 144, 186):
        draw.rectangle((x, 112, x + 10, 144), fill=RED)


def priority(draw: Draw) -> None:
    draw.polygon(polygon(4, 128, 0), fill=WHITE)
    draw.polygon(polygon(4, 96, 0), fill=YELLOW)


def no_entry(draw: Draw) -> None:
    disc(draw, 122, RED)
    draw.rectangle((48, 104, 208, 152), fill=WHITE)


def no_parking(draw: Draw) -> None:
    disc(draw, 122, RED)
    disc(draw, 92, BLUE)
    draw.line((64, 64, 192, 192), fill=RED, width=34)


def limit(draw: Draw) -> None:
    disc(draw, 122, RED)
    disc(draw, 92, WHITE)
    draw.ellipse((138, 84, 194, 172), fill=BLACK)  # the 0 that both limits end in
    draw.ellipse((156, 106, 176, 150), fill=WHITE)


def speed_30(draw: Draw) -> None:
    limit(draw)
    strokes(draw, [(70, 92), (112, 92), (94, 122), (116, 142), (106, 162), (72, 164)], 20, BLACK)


def speed_70(draw: Draw) -> None:
    limit(draw)
    strokes(draw, [(66, 92), (118, 92), (86, 166)], 22, BLACK)


SIGNS: dict[str, Callable[[Draw], None]] = {
    "ahead": ahead,
    "crossroads": crossroads,
    "danger": danger,
    "give_way": give_way,
    "no_entry": no_entry,
    "no_parking": no_parking,
    "parking": parking,
    "priority": priority,
    "speed_30": speed_30,
    "speed_70": speed_70,
    "stop": stop,
    "turn_left": turn_left,
}
CLASSES = tuple(sorted(SIGNS))


@cache
def template(name: str) -> Image.Image:
    """The flat sign on nothing."""
    sign = Image.new("RGBA", (TEMPLATE, TEMPLATE))
    SIGNS[name](ImageDraw.Draw(sign))
    return sign


def surroundings(rng: np.random.Generator) -> Image.Image:
    """Sky over ground in coarse blotches, and a few straight things such as walls and poles."""
    coarse = rng.integers(3, 9)
    top, bottom = rng.uniform(40, 220, (2, 3))
    blend = np.linspace(0, 1, coarse)[:, None, None]
    blotches = (1 - blend) * top + blend * bottom + rng.normal(0, rng.uniform(5, 45), (coarse, coarse, 3))
    scene = Image.fromarray(blotches.clip(0, 255).astype(np.uint8)).resize((SCENE, SCENE), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(scene)
    for _ in range(rng.integers(0, 6)):
        x, y = rng.uniform(-20, SCENE, 2)
        width, height = rng.uniform(4, 60, 2)
        r, g, b = (int(c) for c in rng.integers(0, 256, 3))
        draw.rectangle((x, y, x + width, y + height), fill=(r, g, b))
    return scene.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))


def perspective(rng: np.random.Generator) -> list[float]:
    """Pillow's eight coefficients, which say where in the template each point of the scene is looked up."""
    side = rng.uniform(0.45, 0.95) * SCENE
    middle = SCENE / 2 + rng.uniform(-1, 1, 2) * (0.06 * SCENE + (SCENE - side) / 4)
    angle = rng.normal(0, 0.15)
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * side / 2
    corners = corners * rng.uniform(0.82, 1, 2) + rng.normal(0, 0.035 * side, (4, 2))
    turn = np.array([(cos(angle), -sin(angle)), (sin(angle), cos(angle))])
    seen = corners @ turn.T + middle
    flat = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * TEMPLATE
    rows, values = [], []
    for (x, y), (u, v) in zip(seen, flat, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -u * x, -u * y), (0, 0, 0, x, y, 1, -v * x, -v * y)]
        values += [u, v]
    return [float(c) for c in np.linalg.solve(np.array(rows), np.array(values))]


def weather(pixels: Floats, rng: np.random.Generator) -> Floats:
    """Light that differs in strength, colour and across the picture; haze; the noise of a sensor."""
    lamp = rng.uniform(0.3, 1.25) * rng.uniform(0.88, 1.12, 3)
    angle, depth = rng.uniform(0, 2 * pi), rng.uniform(0, 0.35)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    shade = 1 + depth * (x * cos(angle) + y * sin(angle))
    haze = rng.uniform(0, 0.5)
    lit: Floats = (pixels * (1 - haze) + haze * rng.uniform(0.5, 0.9)) * lamp * shade[..., None]
    noise = rng.normal(0, rng.uniform(0.01, 0.1), pixels.shape)
    seen: Floats = lit + noise
    return seen


def picture(seed: int, name: str, number: int) -> NDArray[np.uint8]:
    """One photograph of one sign, (SIZE, SIZE, 3)."""
    rng = np.random.default_rng((seed, CLASSES.index(name), number))
    scene = surroundings(rng)
    bend = perspective(rng)
    sign = template(name).transform((SCENE, SCENE), Image.Transform.PERSPECTIVE, bend, Image.Resampling.BICUBIC)
    scene.paste(sign, (0, 0), sign)
    scene = scene.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 4)))
    small = scene.resize((SIZE, SIZE), Image.Resampling.BOX)
    lit = weather(np.asarray(small) / 255, rng)
    return (lit.clip(0, 1) * 255).round().astype(np.uint8)
