"""The pruning curve as inline SVG: it needs no script and no network, prints sharply, takes its colours from the page.

A chart library would bring a script, which the page's own security policy forbids, or fixed colours, of which one of
light, dark and paper would come out wrong. The page's other figures are tables with bars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from markupsafe import Markup

from harden.outcome import Cut
from harden.types import Measurement, Rate

WIDTH, HEIGHT = 720, 280
LEFT, RIGHT, TOP, BOTTOM = 84, 20, 34, 64
MOST_DOTS = 40


@dataclass(frozen=True)
class Line:
    """One line of a chart, and its entry in the legend."""

    kind: str
    """The class that gives it its colour and its dashes: nothing is told by colour alone."""
    name: str
    points: tuple[tuple[int, float], ...]
    """Filters closed so far, and the value from 0 to 1."""


@dataclass(frozen=True)
class Curve:
    """What the search for guilty filters saw on its way."""

    lines: tuple[Line, ...]
    chosen: int
    """So many of the filters that it closed were taken out or switched off in the end."""
    svg: Markup
    from_report: bool
    """The start was measured on the images that only report, since the search did not note it."""


def pruning_curve(cut: Cut, before: Measurement) -> Curve | None:
    """Accuracy, attack success and unlearning loss against the filters closed so far; the chosen point is marked."""
    rounds = cut.rounds
    if not rounds or not any(r.closed for r in rounds):
        return None
    closed, total = [], 0
    for r in rounds:
        total += len(r.closed)
        closed.append(total)
    gone = {*cut.removed, *(refusal.filter for refusal in cut.refusals)}
    taken = takewhile(lambda r: gone.issuperset(r.closed), rounds)
    chosen = sum(len(r.closed) for r in taken)
    unknown = bool(rounds[0].closed)
    start = _start(before) if unknown else {}
    lines = [
        _line("accuracy", "accuracy", closed, [r.accuracy.value for r in rounds], start),
        _line("attack", "attack success", closed, [_share(r.attack_success) for r in rounds], start),
    ]
    strongest = max((r.unlearning_loss for r in rounds if math.isfinite(r.unlearning_loss)), default=0.0)
    if strongest > 0:
        name = f"unlearning loss, as a share of {strongest:.3g}"
        lines.append(_line("loss", name, closed, [r.unlearning_loss / strongest for r in rounds], {}))
    drawn = tuple(line for line in lines if line.points)
    return Curve(drawn, chosen, _svg(drawn, total, chosen), unknown)


def _start(before: Measurement) -> dict[str, float]:
    strongest = max((a.asr.value for a in before.attack_success if a.asr.total), default=math.nan)
    return {"accuracy": before.accuracy.value, "attack": strongest}


def _line(kind: str, name: str, closed: Sequence[int], values: Sequence[float], start: dict[str, float]) -> Line:
    known = [(n, v) for n, v in zip(closed, values, strict=True) if math.isfinite(v)]
    first = start.get(kind, math.nan)
    return Line(kind, name, ((0, first), *known) if known and math.isfinite(first) else tuple(known))


def _share(rate: Rate | None) -> float:
    return math.nan if rate is None else rate.value


def _svg(lines: Sequence[Line], most: int, chosen: int) -> Markup:
    parts = [_axes(most)]
    x = _x(chosen, most)
    side = "end" if chosen > most / 2 else "start"
    parts.append(f'<line class="chosen" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{HEIGHT - BOTTOM}"/>')
    parts.append(f'<text x="{x:.1f}" y="{TOP - 12}" text-anchor="{side}">chosen: {chosen}</text>')
    for line in lines:
        points = [(_x(n, most), _y(v)) for n, v in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line {line.kind}" points="{path}"/>')
        if len(points) <= MOST_DOTS:
            parts += [f'<circle class="dot {line.kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in points]
    label = f"Accuracy, attack success and unlearning loss against up to {most} closed filters; {chosen} were chosen."
    text = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{Markup.escape(label)}">{text}</svg>')


def _x(closed: int, most: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * closed / most


def _y(value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(1.0, max(0.0, value)))


def _axes(most: int) -> str:
    lines = []
    for share in (0.0, 0.5, 1.0):
        y = _y(share)
        lines.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{LEFT - 10}" y="{y + 6:.1f}" text-anchor="end">{100 * share:.0f} %</text>')
    ticks = sorted({round(most * i / 4) for i in range(5)})
    lines += [f'<text x="{_x(n, most):.1f}" y="{HEIGHT - BOTTOM + 26}" text-anchor="middle">{n}</text>' for n in ticks]
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">filters closed</text>')
    return "".join(lines)
