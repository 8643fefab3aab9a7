"""Charts as inline SVG: they need no script and no network, print sharply, and take their colours from the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from harden.types import Rate, Round

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 48, 130, 16, 40
MOST_BARS = 40


def pruning_curve(rounds: Sequence[Round], chosen: int) -> Markup | None:
    """Accuracy, attack success and unlearning loss against the filters closed so far; the chosen point is marked."""
    if len(rounds) < 2:
        return None
    closed, total = [], 0
    for r in rounds:
        total += len(r.closed)
        closed.append(total)
    loss = [r.unlearning_loss for r in rounds]
    strongest = max((v for v in loss if math.isfinite(v)), default=1.0) or 1.0
    lines = [("accuracy", "var(--pass)", [r.accuracy.value for r in rounds])]
    if any(r.attack_success is not None for r in rounds):
        asr = [r.attack_success.value if r.attack_success else math.nan for r in rounds]
        lines.append(("attack success", "var(--fail)", asr))
    if any(math.isfinite(v) for v in loss):
        lines.append((f"unlearning loss / {strongest:.3g}", "var(--accent)", [v / strongest for v in loss]))
    most = closed[-1] or 1
    parts = [_axes(most)]
    for row, (name, colour, values) in enumerate(lines):
        points = [(_x(n, most), _y(v)) for n, v in zip(closed, values, strict=True) if math.isfinite(v)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        at = TOP + 14 + 18 * row
        parts.append(f'<rect x="{WIDTH - RIGHT + 12}" y="{at - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 27}" y="{at}">{name}</text>')
    x = _x(min(chosen, most), most)
    parts.append(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
        'stroke="var(--soft)" stroke-dasharray="4 3"/>'
    )
    parts.append(f'<text x="{x:.1f}" y="{TOP - 4}" text-anchor="middle">chosen</text>')
    label = f"Accuracy and attack success against {most} closed filters; {chosen} were chosen"
    return _svg(parts, HEIGHT, label)


def class_bars(names: Sequence[str], before: Sequence[Rate], after: Sequence[Rate] | None) -> Markup:
    """Accuracy of each class, before and after; of many classes those that lost most, or that are worst."""
    order = sorted(range(len(names)), key=lambda k: _badness(before[k], after[k] if after else None))[:MOST_BARS]
    if len(names) <= MOST_BARS:
        order = sorted(order)
    step = 22 if after else 18
    height = TOP + step * len(order) + 24
    left, width = 170, WIDTH - 170 - 60
    parts = []
    for row, k in enumerate(order):
        y = TOP + step * row
        parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{_safe(names[k])}</text>')
        bars = [(before[k], "var(--before)", 0)] + ([(after[k], "var(--accent)", 9)] if after else [])
        for rate, colour, down in bars:
            if rate.total:
                parts.append(
                    f'<rect x="{left}" y="{y + down + 1}" width="{width * rate.value:.1f}" height="7" fill="{colour}"/>'
                )
        shown = after[k] if after else before[k]
        parts.append(f'<text x="{left + width + 6}" y="{y + 12}">{_safe(str(shown))}</text>')
    legend = "grey: before, blue: after" if after else "accuracy"
    many = f"; the {len(order)} of {len(names)} classes that lost most" if len(names) > len(order) else ""
    parts.append(f'<text x="{left}" y="{height - 6}">{legend}{many}</text>')
    return _svg(parts, height, "Accuracy of each class")


def _badness(before: Rate, after: Rate | None) -> tuple[float, float]:
    if not before.total:
        return (2.0, 2.0)
    if after is None:
        return (before.value, 0.0)
    return (after.value - before.value, after.value)


def _safe(text: str) -> str:
    short = text if len(text) <= 24 else text[:23] + "…"
    return str(Markup.escape(short))


def _x(closed: int, most: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * closed / most


def _y(value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(1.0, max(0.0, value)))


def _axes(most: int) -> str:
    lines = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share)
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>')
    ticks = sorted({round(most * i / 5) for i in range(6)})
    lines += [f'<text x="{_x(n, most):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{n}</text>' for n in ticks]
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(f'<text x="{middle}" y="{HEIGHT - 4}" text-anchor="middle">filters closed</text>')
    return "".join(lines)


def _svg(parts: Sequence[str], height: int, label: str) -> Markup:
    text = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{_safe_label(label)}">{text}</svg>')


def _safe_label(text: str) -> str:
    return str(Markup.escape(text))
