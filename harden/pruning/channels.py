"""Where the channels of a layer run through, how they are closed all the way, and which of them are left.

A channel begins at a producer (a convolution or linear layer that writes it; several, on a residual stream), runs
through layers that keep it to itself (normalisation, depthwise convolution), and ends at its consumers, which read it.
Closed at its producer alone it may still carry a constant: a normalisation further on sends out
bias - mean * weight / std. Closed all the way, every consumer reads zero, and cutting it out changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Row = tuple[str, int]
"""A module (or a bare parameter) by its name in the network, and a position in its output."""
Role = Literal["producer", "through", "consumer"]


@dataclass(frozen=True)
class Station:
    """One layer that the channels pass, and which of its positions belongs to which channel."""

    name: str
    role: Role
    size: int
    """Positions that it has in all."""
    positions: tuple[int, ...]
    channels: tuple[int, ...]  # as long as positions

    @property
    def end(self) -> Literal["in", "out"]:
        return "in" if self.role == "consumer" else "out"


@dataclass(frozen=True)
class Reach:
    """All that the channels of one layer touch."""

    layer: str
    width: int
    stations: tuple[Station, ...] = ()
    obstacle: str = ""
    """Why none of them can be cut out; empty if they can."""

    @property
    def consumers(self) -> list[Station]:
        """What reads the channels in the end."""
        return [station for station in self.stations if station.role == "consumer"]

    def rows(self, channels: Iterable[int], producers: bool = False) -> list[Row]:
        """What has to be zero for these channels to be closed all the way; or only what writes them."""
        return [row for channel in channels for row, role in self._rows[channel] if role == "producer" or not producers]

    def producers(self, channel: int) -> list[str]:
        """The layers that write this channel."""
        return [name for (name, _), role in self._rows[channel] if role == "producer"]

    @cached_property
    def _rows(self) -> list[list[tuple[Row, Role]]]:
        rows: list[list[tuple[Row, Role]]] = [[] for _ in range(self.width)]
        for station in self.stations:
            if station.end == "out":
                for position, channel in zip(station.positions, station.channels, strict=True):
                    rows[channel].append(((station.name, position), station.role))
        return rows


@dataclass
class Ledger:
    """Which original positions each narrowed layer still has."""

    kept: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def row(self, station: Station) -> list[int]:
        return self.kept.get((station.name, station.end), list(range(station.size)))

    def original(self, reach: Reach) -> Callable[[Row], Row]:
        """Present positions to those in the network as it came."""
        rows = {station.name: self.row(station) for station in reach.stations if station.end == "out"}
        return lambda row: (row[0], rows[row[0]][row[1]])

    def drop(self, reach: Reach, channels: Iterable[int]) -> None:
        gone = set(channels)
        for station in reach.stations:
            row = self.row(station)
            leaves = {p for p, c in zip(station.positions, station.channels, strict=True) if c in gone}
            self.kept[station.name, station.end] = [row[p] for p in range(len(row)) if p not in leaves]


@dataclass(frozen=True, eq=False)
class Heard:
    """What one layer read at each position of its input, over all images and places."""

    least: Tensor
    most: Tensor

    @property
    def middle(self) -> Tensor:
        return (self.least + self.most) / 2

    @property
    def loudest(self) -> Tensor:
        """The largest number of all."""
        return torch.maximum(self.least.abs(), self.most.abs()).amax()


def heard(network: nn.Module, layers: Iterable[str], images: Tensor, batch: int = 128) -> dict[str, Heard]:
    """What these layers read, in one pass over these images; those that the pass does not reach are left out."""
    found: dict[str, Heard] = {}
    handles = []
    for name in layers:

        def listen(module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            read = inputs[0].detach().movedim(-1 if isinstance(module, nn.Linear) else 1, 0).flatten(1)
            now = Heard(read.amin(1), read.amax(1))
            past = found.get(name, now)
            found[name] = Heard(torch.minimum(past.least, now.least), torch.maximum(past.most, now.most))

        handles.append(network.get_submodule(name).register_forward_pre_hook(listen))
    try:
        with torch.no_grad():
            for part in images.split(batch):
                network(part)
    finally:
        for handle in handles:
            handle.remove()
    return found


def dead_channels(network: nn.Module, reach: Reach, images: Tensor) -> set[int]:
    """The channels that every consumer reads as zero, on these images."""
    loudest = torch.zeros(reach.width, dtype=torch.float64)
    said = heard(network, [station.name for station in reach.consumers], images)
    for station in reach.consumers:
        if station.name in said:
            read = said[station.name]
            loud = torch.maximum(read.least.abs(), read.most.abs())[list(station.positions)].double().cpu()
            loudest.scatter_reduce_(0, torch.tensor(station.channels), loud, "amax")
    return set(loudest.eq(0).nonzero().flatten().tolist())


@contextmanager
def closed_rows(network: nn.Module, rows: Sequence[Row]) -> Iterator[None]:
    """Closes rows for the length of a with-block."""
    with torch.no_grad():
        places = [(tensor, index) for row in rows for tensor, index in _places(network, row)]
        saved = [tensor[index].clone() for tensor, index in places]
        for tensor, index in places:
            tensor[index] = 0
    try:
        yield
    finally:
        with torch.no_grad():
            for (tensor, index), value in zip(reversed(places), reversed(saved), strict=True):
                tensor[index] = value


def close_rows(network: nn.Module, rows: Sequence[Row]) -> None:
    """Closes rows for good."""
    with torch.no_grad():
        for row in rows:
            for tensor, index in _places(network, row):
                tensor[index] = 0


def _places(network: nn.Module, row: Row) -> list[tuple[Tensor, tuple[slice | int, ...]]]:
    name, position = row
    parent, _, last = name.rpartition(".")
    owner = network.get_submodule(parent)
    module = getattr(owner, last)
    if isinstance(module, nn.Parameter):
        axis = channel_axis(module)
        return [(module.data, (*(slice(None),) * axis, position))]
    if isinstance(module, nn.PReLU):  # it sends zero to zero, whatever its slope
        return []
    found = [t for t in (getattr(module, "weight", None), getattr(module, "bias", None)) if isinstance(t, Tensor)]
    if isinstance(module, _BatchNorm) and module.weight is None and module.running_mean is not None:
        found = [module.running_mean]  # nothing else is left that could shift a zero
    return [(tensor.data, (position,)) for tensor in found]


def channel_axis(parameter: Tensor) -> int:
    """The axis of a bare parameter that counts channels: the last that is longer than one."""
    return max((axis for axis, length in enumerate(parameter.shape) if length > 1), default=0)
