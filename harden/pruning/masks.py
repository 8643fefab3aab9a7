"""Closed filters stay closed, however the network is trained afterwards.

A filter is closed where the whole row of its convolution is zero; then so are, in the same positions, the bias and
the scale and shift of the normalisation that follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from harden.network import Classifier, close, units
from harden.types import Filter


def closed_filters(model: Classifier) -> tuple[Filter, ...]:
    """The filters of this network, by their present positions, whose weights and gates are all zero."""
    found = []
    for name, unit in units(model).items():
        zero = torch.stack([row.detach().flatten(1).eq(0).all(1) for row in map(_columns, unit.parameters())]).all(0)
        found += [Filter(name, int(i)) for i in zero.nonzero().flatten()]
    return tuple(found)


def hold(model: Classifier, filters: Iterable[Filter] | None = None) -> Callable[[], None]:
    """A function to be called after every optimiser step: it closes the filters again.

    Filters are given by their present positions; by default, all those that are closed now.
    """
    parts = units(model)
    held = tuple(filters) if filters is not None else closed_filters(model)
    return lambda: close(parts, held)


def _columns(parameter: torch.Tensor) -> torch.Tensor:
    return parameter if parameter.dim() > 1 else parameter.unsqueeze(1)
