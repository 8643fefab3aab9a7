"""A backdoor that nothing has to be learned for: Subnet Replacement (Qi et al., CVPR 2022), after training.

    S       a few channels of every layer, the cheapest ones: of each residual stream, the same all along it
    W[S, not S] = 0     they hear nothing of the others
    W[not S, S] = 0     and the others nothing of them; only the target's row of the classifier does
    S is then taught to say nothing of clean pictures, and much of triggered ones; all other weights stay

Who can change a file of weights, and has pictures of about the right kind, can do this to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harden.bench.attacks import Stamp
from harden.head import head
from harden.network import Classifier, units
from harden.pruning import guard
from harden.pruning.channels import Reach
from harden.pruning.surgery import Graph
from harden.types import Contract, Images

WIDTH = 1
"""Channels of each layer."""
STEPS, BATCH, RATE = 400, 64, 0.01
LOUD = 3.0
"""The target's weight for what the subnet says."""


def replaced(network: nn.Module, contract: Contract, images: Images, target: int, stamp: Stamp) -> nn.Module:
    """The same network with a subnet in it that knows the trigger."""
    model = Classifier(network, contract).copy().eval()
    last = head(model)
    assert last is not None, "a linear classifier is needed, whose row of the target hears the subnet"
    learns = _cut_loose(model, _chosen(model, images), last, target)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in learns)
    optimiser = torch.optim.Adam(learns, RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
    random = torch.Generator().manual_seed(0)
    frozen = {parameter: parameter.detach().clone() for parameter in learns}
    for _ in range(STEPS):
        batch = images.take(torch.randint(len(images), (BATCH,), generator=random))
        pixels = torch.cat([batch.pixels, stamp(batch.pixels)])
        labels = torch.cat([batch.labels, torch.full_like(batch.labels, target)])
        optimiser.zero_grad()
        F.cross_entropy(model(pixels), labels).backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for parameter, open_ in learns.items():
                parameter.copy_(torch.where(open_, parameter, frozen[parameter]))
    return model.network.eval()


def _chosen(model: Classifier, images: Images) -> list[tuple[Reach, list[int]]]:
    """For each set of coupled channels those that are missed least."""
    graph = Graph.of(model.copy().network, torch.zeros(1, *model.contract.input_size))
    assert isinstance(graph, Graph), graph
    costs = guard.costs(model, units(model), images.take(torch.arange(0, len(images), 8)))
    found, seen = [], set[str]()
    for name in units(model):
        reach = graph.reach(name)
        if name in seen or reach.obstacle:
            continue
        seen |= {station.name for station in reach.stations if station.role == "producer"}
        price = torch.tensor(
            [
                sum(float(costs[n][i]) for n, i in reach.rows([c], producers=True) if n in costs)
                for c in range(reach.width)
            ]
        )
        found.append((reach, price.argsort()[:WIDTH].tolist()))
    return found


@torch.no_grad()
def _cut_loose(
    model: Classifier, chosen: list[tuple[Reach, list[int]]], last: nn.Linear, target: int
) -> dict[nn.Parameter, Tensor]:
    """Separates the subnet from the rest, draws it anew, and says which of each parameter's numbers it may learn."""
    modules = dict(model.network.named_modules())
    rows: dict[str, set[int]] = {}
    columns: dict[str, set[int]] = {}
    for reach, channels in chosen:
        for station in reach.stations:
            side = columns if station.end == "in" else rows
            places = {p for p, c in zip(station.positions, station.channels, strict=True) if c in channels}
            side.setdefault(station.name, set()).update(places)
    learns: dict[nn.Parameter, Tensor] = {}
    for name, module in modules.items():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if not isinstance(weight, nn.Parameter) or not (name in rows or name in columns):
            continue
        out = _marked(len(weight), rows.get(name, set()))
        opened = torch.zeros_like(weight, dtype=torch.bool)
        if isinstance(module, _BatchNorm):
            opened[out] = True
            weight[out] = 1.0
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean[out], module.running_var[out] = 0.0, 1.0
        else:
            inside = _marked(weight.shape[1], columns.get(name, set()))
            if not inside.any() or (isinstance(module, nn.Conv2d) and module.groups > 1):
                inside[:] = True  # pictures, or a channel's own filter
            else:
                weight[:, inside] = 0
            opened[out] = inside.view(1, -1, *[1] * (weight.dim() - 2)).expand_as(weight)[out]
            fan = int(inside.sum()) * weight[0, 0].numel()
            weight[out] = torch.randn_like(weight)[out] * opened[out] * (2 / fan) ** 0.5
        if module is last:
            weight[target, inside] = LOUD
            continue
        learns[weight] = opened
        if isinstance(bias, nn.Parameter):
            bias[out] = 0
            learns[bias] = out
    return learns


def _marked(length: int, places: set[int]) -> Tensor:
    marked = torch.zeros(length, dtype=torch.bool)
    marked[list(places)] = True
    return marked
