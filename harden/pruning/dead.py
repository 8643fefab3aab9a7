"""Whatever a method leaves behind is made smaller by the channels that have died in it, and by those it found guilty.

    dead       each of its readers reads one number there, mostly zero, on every clean image
    closing    what a reader misses goes into its bias:   b <- b + sum over dead channels of (c - c') * sum of W
               c what it read, c' what it reads of the closed channel

Exact but at the borders of zero padding, and as far as the images go: what sleeps on all of them may wake on another
(which is why it is worth closing). So accuracy is looked at on the split for choosing; if it fell by too much, only
what was read as zero goes. What is closed then leaves by the surgery, with its alignment and its proof.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from harden.network import Classifier, Unit, close, units
from harden.pruning import choose, guard
from harden.pruning.channels import Heard, Reach, close_rows, heard
from harden.pruning.ranked import largest_harmless
from harden.pruning.surgery import cuttable, operate
from harden.types import Filter, Images, Proposal, Pruned, Run, Splits

SAME = 1e-5
"""Of the largest number that a layer reads: numbers that differ by less are one number."""
TRIES = 8
"""How many of the guilty filters at a time, when all of them would cost too much."""


def bury(
    model: Classifier,
    guilty: Sequence[Filter],
    splits: Splits,
    run: Run,
    *,
    align: int = 8,
    max_accuracy_drop: float = 0.01,
) -> Pruned:
    """The network without its dead channels and without the guilty ones (guiltiest first), as far as accuracy holds.

    `max_accuracy_drop` is one budget for all of it, on the split for choosing. The model itself is not touched.
    """
    model = model.copy().eval()
    before = guard.accuracy(model, splits.choose)
    condemned = _harmless(model, guilty, splits.choose, run, max_accuracy_drop)
    close(units(model), condemned)
    reaches = cuttable(model, splits.tune)
    silent: list[Filter] = []
    left = max_accuracy_drop
    for same in (SAME, 0.0):
        trial = model.copy().eval()
        silent = silence(trial, reaches, splits, same)
        left = max_accuracy_drop - (before.hits - guard.accuracy(trial, splits.choose).hits) / before.total
        if left >= -1e-12 or not same:
            model = trial
            break
    told = f"{len(silent)} filters say the same on every clean image"
    proposal = Proposal((*condemned, *silent), stopped_because=told)
    return operate(model, proposal, splits, run, align=align, max_accuracy_drop=left)


def silence(model: Classifier, reaches: Iterable[Reach], splits: Splits, same: float = SAME) -> list[Filter]:
    """Closes the dead channels of a network, in place, and says which filters made them; with 0, only what is zero."""
    every = torch.cat([splits.tune.pixels, splits.choose.pixels]).to(model.mean.device)
    pixels = (every - model.mean) / model.std
    reaches = list(reaches)
    readers = {station.name for reach in reaches for station in reach.consumers}
    said, parts = heard(model.network, readers, pixels), units(model)
    dead = {reach.layer: _dead(reach, said, same) for reach in reaches}
    for reach in reaches:
        close_rows(model.network, reach.rows(dead[reach.layer]))
    now = heard(model.network, readers, pixels[:1])
    missing = {name: torch.zeros_like(said[name].least) for name in readers}
    for reach in reaches:
        for station in reach.consumers:
            index = [p for p, c in zip(station.positions, station.channels, strict=True) if c in dead[reach.layer]]
            missing[station.name][index] = said[station.name].middle[index] - now[station.name].middle[index]
    for name, constant in missing.items():
        _compensate(model.network.get_submodule(name), constant, parts.get(name))
    gone = {
        Filter(*row) for reach in reaches for row in reach.rows(dead[reach.layer], producers=True) if row[0] in parts
    }
    return [filter for unit in parts.values() for filter in unit.filters() if filter in gone]


def _dead(reach: Reach, said: Mapping[str, Heard], same: float) -> set[int]:
    """The channels that each reader reads as one number; if `same` is 0, as zero."""
    apart = torch.zeros(reach.width)
    for station in reach.consumers:
        read = said[station.name]
        spread = read.most - read.least if same else torch.maximum(read.most.abs(), read.least.abs())
        share = spread[list(station.positions)] / read.loudest.clamp_min(1e-30)
        apart.scatter_reduce_(0, torch.tensor(station.channels), share.cpu(), "amax")
    return set(apart.le(same).nonzero().flatten().tolist())


@torch.no_grad()
def _compensate(reader: nn.Module, constant: Tensor, unit: Unit | None) -> None:
    """Adds what a reader would have made of these numbers, one for each position of its input, where it can take it."""
    assert isinstance(reader, nn.Conv2d | nn.Linear)
    weight = reader.weight.flatten(2).sum(2) if reader.weight.dim() > 2 else reader.weight
    if reader.bias is not None:
        reader.bias += weight @ constant.to(weight)
    elif unit is not None and unit.norm is not None and unit.norm.running_mean is not None:
        unit.norm.running_mean -= weight @ constant.to(weight)


def _harmless(
    model: Classifier, guilty: Sequence[Filter], images: Images, run: Run, max_drop: float
) -> tuple[Filter, ...]:
    """As many of the guilty filters, guiltiest first, as accuracy allows."""
    known = {filter for unit in units(model).values() for filter in unit.filters()}
    ranked = [(filter, math.nan) for filter in dict.fromkeys(guilty) if filter in known]
    sizes = choose.thinned(range(1, len(ranked) + 1), TRIES)
    return largest_harmless(model, ranked, sizes, images, run, max_drop=max_drop).guilty
