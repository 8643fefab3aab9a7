"""From a ranking of filters to a proposal: as many of them as accuracy allows.

Published pruners choose this number on test images, or with the true trigger. Here it is chosen on the defender's own
split for choosing, and every number that was tried is in the proposal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.network import Classifier, closed, predict, units
from harden.repair.losses import as_logits
from harden.types import Filter, Images, Proposal, Rate, Round, Run


def lowest(values: Mapping[str, Tensor]) -> list[tuple[Filter, float]]:
    """All filters with their values, smallest first; the largest of each layer is left out, so that none is emptied."""
    kept = {(name, int(row.argmax())) for name, row in values.items()}
    pairs = [
        (Filter(name, i), value)
        for name, row in values.items()
        for i, value in enumerate(row.tolist())
        if (name, i) not in kept and math.isfinite(value)
    ]
    return sorted(pairs, key=lambda pair: pair[1])


def up_to(ranked: Iterable[tuple[Filter, float]], thresholds: Sequence[float]) -> list[int]:
    """How many of the ranked values lie at or below each threshold."""
    values = [value for _, value in ranked]
    return [sum(value <= threshold for value in values) for threshold in thresholds]


def largest_harmless(
    model: Classifier,
    ranked: Sequence[tuple[Filter, float]],
    sizes: Sequence[int],
    images: Images,
    run: Run,
    *,
    max_drop: float,
) -> Proposal:
    """The largest of these prefixes of the ranking with accuracy within `max_drop` (absolute) of the start."""
    parts, order = units(model), [filter for filter, _ in ranked]
    start, loss = _judge(model, images)
    rounds = [Round(0, (), 0.0, start, math.nan, loss)]
    guilty: tuple[Filter, ...] = ()
    because = "every threshold tried"
    sizes = [size for size in dict.fromkeys(sizes) if size > 0]
    if not sizes:
        return Proposal((), (), "no filter is below any threshold")
    with run.progress.task("choosing how many", len(sizes)) as task:
        for number, size in enumerate(sizes, 1):
            with closed(parts, order[:size]):
                accuracy, loss = _judge(model, images)
            rounds.append(
                Round(number, tuple(order[len(guilty) : size]), ranked[size - 1][1], accuracy, math.nan, loss)
            )
            task.advance(1, f"{size} filters, accuracy {accuracy}")
            if start.value - accuracy.value > max_drop:
                because = f"{size} filters would cost {start.value - accuracy.value:.3f} of accuracy"
                break
            guilty = tuple(order[:size])
    return Proposal(guilty, tuple(rounds), because)


@torch.no_grad()
def _judge(model: Classifier, images: Images) -> tuple[Rate, float]:
    outputs = as_logits(predict(model, images))
    hits = int((outputs.argmax(1) == images.labels).sum())
    return Rate(hits, len(images)), float(F.cross_entropy(outputs, images.labels))
