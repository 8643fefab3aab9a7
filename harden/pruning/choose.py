"""Which filters, and how many: decisions on numbers alone.

ONNX Runtime computes convolutions in blocks of 8 channels; a layer of any other width falls out of its fast kernels
and becomes slower than it was before the cut. So a layer goes from one aligned width to the next, or keeps its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from harden.types import Filter


def pick(scores: Mapping[str, Sequence[float]], closed: Collection[Filter], count: int = 1) -> list[Filter]:
    """The highest scores over all layers, without those that are closed and never the last one open in its layer."""
    gone = set(closed)
    left = {layer: sum(Filter(layer, i) not in gone for i in range(len(row))) for layer, row in scores.items()}
    ranked = sorted(
        (Filter(layer, i) for layer, row in scores.items() for i in range(len(row)) if Filter(layer, i) not in gone),
        key=lambda filter: -scores[filter.layer][filter.index],
    )
    picked: list[Filter] = []
    for filter in ranked:
        if len(picked) == count:
            break
        if left[filter.layer] > 1:
            left[filter.layer] -= 1
            picked.append(filter)
    return picked


def by_layer(filters: Iterable[Filter]) -> dict[str, list[int]]:
    """The indices in each layer, in the order given, each once."""
    found: dict[str, list[int]] = {}
    for layer, index in filters:
        row = found.setdefault(layer, [])
        if index not in row:
            row.append(index)
    return found


def aligned_width(width: int, guilty: int, align: int = 8) -> int | None:
    """The widest aligned layer that is left when at least `guilty` filters go; None if that would empty it."""
    target = (width - guilty) // align * align
    return target if target > 0 else None


def cut_sizes(width: int, guilty: int, align: int = 8) -> list[int]:
    """How many filters may go together, best first: all the guilty and those that the alignment asks for besides.

    Then, where that costs too much, fewer. A layer whose width never was aligned may lose just the guilty ones.
    """
    sizes = []
    target = aligned_width(width, guilty, align)
    if target is not None:
        sizes.append(width - target)
    if width % align:
        sizes.append(guilty)
    fewer = [width - kept for kept in range(align, width, align) if width - kept < guilty]
    sizes += sorted(fewer, reverse=True)
    return [size for size in dict.fromkeys(sizes) if 0 < size < width]


def thinned(sizes: Sequence[int], most: int = 6) -> list[int]:
    """At most so many of the sizes, evenly spread, with the first and the last: each one costs an evaluation."""
    if len(sizes) <= most:
        return list(sizes)
    last = len(sizes) - 1
    return [sizes[round(i * last / (most - 1))] for i in range(most)]
