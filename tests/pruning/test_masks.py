"""Closed filters stay closed through training."""

from __future__ import annotations

import torch
from torch import nn

from harden.network import Classifier, close, units
from harden.pruning.masks import closed_filters, hold
from harden.types import Filter
from tests.pruning.nets import network, splits

CLOSED = (Filter("stem.0", 2), Filter("middle.0", 5))


def step(model: Classifier) -> None:
    """Decay and momentum move weights that have no gradient, too."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, weight_decay=0.1)
    tune = splits().tune
    for _ in range(2):
        nn.functional.cross_entropy(model(tune.pixels), tune.labels).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)  # what any optimiser may do
        optimiser.step()


def test_closed_filters_are_found() -> None:
    model = network("plain")
    assert closed_filters(model) == ()
    close(units(model), CLOSED)
    assert closed_filters(model) == CLOSED


def test_hold_closes_them_again_after_a_step() -> None:
    model = network("plain")
    close(units(model), CLOSED)
    after_step = hold(model)
    step(model)
    assert closed_filters(model) == ()
    after_step()
    assert closed_filters(model) == CLOSED


def test_hold_takes_filters_by_name() -> None:
    model = network("plain")
    hold(model, [CLOSED[1]])()
    assert closed_filters(model) == CLOSED[1:]
