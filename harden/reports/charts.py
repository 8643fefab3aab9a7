"""Charts as inline SVG: they need no script and no network, print sharply, take their colours from the page.

A chart library would bring a script, which the page's own security policy forbids, or fixed colours, of which one of
light, dark and paper would come out wrong. The page's other figures are tables with bars.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile

from markupsafe import Markup

from harden.outcome import Cut, Speed
from harden.reports import words
from harden.types import Rate

WIDTH, HEIGHT = 720, 280
LEFT, RIGHT, TOP, BOTTOM = 92, 36, 34, 64
MOST_DOTS = 40
MOST_TICKS = 8
BARS_WIDTH, BARS_LEFT, BARS_RIGHT, ROW = 380, 100, 236, 24
"""Of a chart of speeds, as wide as a phone: names stand before the bars, figures behind them."""
LONGEST = 2.5
"""Times the original's median, at the end of that chart; a longer line is cut off there, with an arrow."""


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


def pruning_curve(cut: Cut) -> Curve | None:
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
    lines = [
        _line("accuracy", "accuracy", closed, [r.accuracy.value for r in rounds]),
        _line("attack", "attack success", closed, [_share(r.attack_success) for r in rounds]),
    ]
    strongest = max((r.unlearning_loss for r in rounds if math.isfinite(r.unlearning_loss)), default=0.0)
    if strongest > 0:
        name = f"unlearning loss, as a share of {strongest:.3g}"
        lines.append(_line("loss", name, closed, [r.unlearning_loss / strongest for r in rounds]))
    drawn = tuple(line for line in lines if line.points)
    return Curve(drawn, chosen, _svg(drawn, total, chosen))


def _line(kind: str, name: str, closed: Sequence[int], values: Sequence[float]) -> Line:
    return Line(kind, name, tuple((n, v) for n, v in zip(closed, values, strict=True) if math.isfinite(v)))


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
    ticks = range(most + 1) if most <= MOST_TICKS else sorted({round(most * i / 4) for i in range(5)})
    lines += [f'<text x="{_x(n, most):.1f}" y="{HEIGHT - BOTTOM + 26}" text-anchor="middle">{n}</text>' for n in ticks]
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">filters closed</text>')
    return "".join(lines)


def speeds(latency: Sequence[Speed]) -> tuple[Markup, ...]:
    """For each setting, time against the original's: bars to the median, lines between the 5th and 95th percentile."""
    if all(s.name == "original" for s in latency):
        return ()
    return tuple(_bars(list(files)) for _, files in groupby(latency, key=lambda s: (s.batch, s.threads)))


def _bars(files: Sequence[Speed]) -> Markup:
    height, base, one = ROW * (1 + len(files)), files[0].median_ms * files[0].speedup, _along(1.0)
    parts = [f'<text class="group" x="0" y="{ROW - 8}">{words.setting(files[0])}</text>']
    parts += [_bar(s, base, ROW * i) for i, s in enumerate(files, 1)]
    parts.append(f'<line class="chosen" x1="{one:.1f}" x2="{one:.1f}" y1="{ROW}" y2="{height}"/>')
    told = "; ".join(words.speed(s) for s in files if s.name != "original")
    box = f'viewBox="0 0 {BARS_WIDTH} {height}" role="img" aria-label="{Markup.escape(told)}"'
    return Markup(f'<svg class="speeds" {box}>{"".join(parts)}</svg>')


def _bar(s: Speed, base: float, y: int) -> str:
    middle, end = y + ROW / 2, _along(s.median_ms / base)
    low, high = (s.median_ms if s.p5_ms is None else s.p5_ms) / base, s.p95_ms / base
    ratio = "1" if s.name == "original" else f"{s.speedup:.2f} ({s.speedup_low:.2f} to {s.speedup_high:.2f})"
    arrow = f'<path class="spread" d="M{BARS_RIGHT - 5},{middle - 4} l5,4 l-5,4"/>' if high > LONGEST else ""
    return (
        f'<text x="{BARS_LEFT - 6}" y="{middle + 5}" text-anchor="end">{words.file_name(s)}</text>'
        f'<rect class="speed {s.name}" x="{BARS_LEFT}" y="{y + 4}" width="{end - BARS_LEFT:.1f}" height="{ROW - 8}"/>'
        f'<line class="spread" x1="{_along(low):.1f}" x2="{_along(high):.1f}" y1="{middle}" y2="{middle}"/>{arrow}'
        f'<text x="{BARS_RIGHT + 7}" y="{middle + 5}">{ratio}</text>'
    )


def _along(share: float) -> float:
    """Where this many times the original's median lies."""
    return BARS_LEFT + (BARS_RIGHT - BARS_LEFT) * min(share, LONGEST) / LONGEST
