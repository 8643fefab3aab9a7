"""Smaller and faster until a budget holds: after the guilty filters, the least useful ones go too.

    u         mixtures of clean images, each with a label drawn from what the network says of it
    cost_c    what closing channel c would cost: the guard's estimate on u, which is half the Fisher information, summed
              over all filters that share the channel; so the distance from what the network says, not from a few labels
    block     the cheapest channels of a layer that are left, so many that what remains is aligned
    gain      multiplications (or weights) that go with a block; for speed, times the layer's seconds for each of them,
              measured with half of that layer gone
    path      all blocks, by cost / gain
    reached   the file exported from the network without the first n blocks is so small, or so fast in turns with the
              original's, beyond chance

The least n that reaches the budget is found by halving: speed and size depend on shapes alone, so nothing is trained
meanwhile. Layers do not add up, though: a runtime may gain nothing from one narrow layer and much from two in a row. So
blocks are given back one by one, the dearest first, as long as the budget holds without them. Then the weights relearn,
and if accuracy fell by more than max_drop, the last quarter of the path is given back until it holds: the result says
which budget ended the search.

    accuracy   each fold of the images (to tune and to choose) is judged by a network that relearned from the others

Nobody is judged on what it learned from, and all images count: the fifth of them that chooses is too few to see a
point of accuracy go. What ships has relearned from all of them, and as long: a small network for longer, since it
learns slowly and costs little. Judged after a quarter of that, it looks a point worse than what would ship.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harden.counting import macs_by_layer
from harden.data import together
from harden.errors import UsageError
from harden.network import Classifier, Unit, units
from harden.pruning import guard
from harden.pruning.channels import Reach
from harden.pruning.likeness import named
from harden.pruning.surgery import Graph, operate
from harden.types import Attempt, Filter, Images, Proposal, Pruned, Rate, Run, Splits, Task
from harden_export.candidate import Stopwatch

MOST = 0.9
"""Of a layer: beyond that, little is left to relearn with."""
BACKWARDS = 3
"""Smaller cuts that are tried when accuracy does not hold."""
PROBED = 16
"""Layers that are timed one by one, those with the most work; the others are taken to be as fast as these are."""
DOUBT = 3.0
"""A layer that seems so many times faster or slower than most is taken to be that, and no more: timings are noisy."""
MIXTURES = 512
"""Pictures that the costs are measured on."""
FOLDS = 3
LONGER = 4
"""Times as long as a larger one a small network relearns."""
SMALL = 5e7
"""Multiplications for one picture that a small network needs at most; from LONGER times as many on, none is added."""
Relearn = Callable[[Classifier, Images, float], object]
"""Moves the weights of a cut network in place, by these images, so many times as long as it does by itself."""


@dataclass(frozen=True)
class Budget:
    """What the file has to reach, and what that may cost."""

    speedup: float | None = None
    """Times as fast as the original in ONNX Runtime, batch 1."""
    max_bytes: int | None = None
    max_drop: float = 0.01
    """Of accuracy against the original, on images held back from relearning."""
    threads: int = 1
    tries: int = 6
    """Networks that are exported and timed on the way to the budget."""
    returns: int = 12
    """And such as are tried with a block given back."""
    seconds: float = 1.0
    """For the timing of each."""
    provider: str = "cpu"
    """Of ONNX Runtime, that they are timed on."""


@dataclass(frozen=True, eq=False)
class Shrunk:
    """The network under its budget, or as near as accuracy let it come."""

    pruned: Pruned
    reached: bool
    ended_by: str
    """Which budget ended the search, in a sentence."""
    attempts: tuple[Attempt, ...]


def shrink(
    model: Classifier,
    proposal: Proposal,
    splits: Splits,
    run: Run,
    budget: Budget,
    relearn: Relearn,
    *,
    align: int = 8,
) -> Shrunk:
    """Cuts the guilty filters and then as many useless ones as the budget asks for and accuracy allows."""
    if budget.speedup is None and budget.max_bytes is None:
        raise UsageError("a budget needs a speed-up or a size.", hint="Give --target-speedup or --max-size.")
    macs = macs_by_layer(model.network, model.contract.input_size)
    costs = guard.costs(model, units(model), named(model, splits.tune, run.seed, MIXTURES))
    layers = _layers(model, splits, proposal, costs, macs, align)
    longer = min(LONGER, max(1.0, LONGER * SMALL / max(1, sum(macs.values()))))
    every = sum(unit.width for unit in units(model).values())
    attempts: list[Attempt] = []

    def cut(blocks: Sequence[_Block]) -> Pruned:
        more = [Filter(block.layer, channel) for block in blocks for channel in block.channels]
        done = _operate(model, proposal, more, splits, run, align, costs)
        return replace(done, stopped_because=proposal.stopped_because)

    with Stopwatch(
        model.network,
        input_size=model.contract.input_size,
        threads=budget.threads,
        seconds=budget.seconds,
        provider=budget.provider,
    ) as stopwatch:

        def attempt(blocks: Sequence[_Block]) -> tuple[Pruned, Attempt]:
            pruned = cut(blocks)
            found = stopwatch(pruned.module)
            reached = found.reaches(speedup=budget.speedup, max_bytes=budget.max_bytes)
            speed, gone = found.latency, len(pruned.removed) / every
            attempts.append(Attempt(gone, found.bytes, speed.speedup, speed.speedup_low, reached))
            return pruned, attempts[-1]

        probes = min(len(layers), PROBED) if budget.speedup is not None else 0
        with run.progress.task("budget", probes + budget.tries + budget.returns) as task:
            path = _path(layers, _rates(layers, cut, stopwatch, run, task) if probes else {})
            first = _guess(path, budget, stopwatch.original.bytes)
            blocks, (pruned, tried) = _least(path, first, attempt, budget, run, task)
        for step in range(BACKWARDS + 1):
            images = together(splits.tune, splits.choose)
            before, accuracy = _held_back(pruned, model, images, run, relearn, longer, budget.max_drop)
            tried = replace(tried, accuracy=accuracy)
            attempts.append(tried)
            if _within(before, accuracy, len(images), budget.max_drop):
                healed = replace(pruned, module=_relearned(pruned, model, images, run, relearn, longer).network)
                return Shrunk(healed, tried.reached, _ended(tried, budget, step), tuple(attempts))
            if step == BACKWARDS or time.monotonic() > run.deadline:
                break
            blocks = blocks[: int(0.75 * len(blocks))]
            pruned, tried = attempt(blocks)
    return Shrunk(
        cut([]),
        False,
        f"accuracy: even with {100 * tried.share:.0f} % of all filters gone it fell by more than "
        f"{100 * budget.max_drop:g} points, so only the guilty filters went",
        tuple(attempts),
    )


def _least(
    path: Sequence[_Block],
    first: int,
    attempt: Callable[[Sequence[_Block]], tuple[Pruned, Attempt]],
    budget: Budget,
    run: Run,
    task: Task,
) -> tuple[Sequence[_Block], tuple[Pruned, Attempt]]:
    """The blocks that have to go, by halving the path and giving back; all of them where that is not enough."""
    low, high, best, count = 0, len(path), None, first
    for _ in range(budget.tries):
        if high - low <= (best is not None) or time.monotonic() > run.deadline:
            break
        done = attempt(path[:count])
        task.advance(1, f"{100 * done[1].share:.0f} % of all filters: {done[1].speedup:.2f} times as fast")
        if done[1].reached:
            high, best = count, done
        elif count == len(path):
            return path, done
        else:
            low = count
        count = (low + high + 1) // 2 if best is None else (low + high) // 2
    if best is None:
        return path, attempt(path)
    blocks: Sequence[_Block] = path[:high]
    needed: set[str] = set()  # layers that can give nothing back
    for _ in range(budget.returns):
        last = _dearest(blocks, needed)
        if last is None or time.monotonic() > run.deadline:
            break
        without = [block for block in blocks if block is not last]
        done = attempt(without)
        task.advance(1, f"without {len(last.channels)} of {last.layer}: {done[1].speedup:.2f} times as fast")
        if done[1].reached:
            blocks, best = without, done
        else:
            needed.add(last.layer)
    return blocks, best


@dataclass(frozen=True)
class _Block:
    """Channels that go together, so that an aligned number is left."""

    layer: str
    channels: tuple[int, ...]
    cost: float


@dataclass(frozen=True)
class _Layer:
    """The channels of one coupling set, by one convolution that writes them."""

    name: str
    blocks: tuple[_Block, ...]
    """Cheapest first, the guilty before all others."""
    work: float
    """Multiplications that go with each channel."""
    weights: float
    """Parameters that go with each channel."""

    @property
    def half(self) -> tuple[_Block, ...]:
        return self.blocks[: -(-len(self.blocks) // 2)]


def _layers(
    model: Classifier,
    splits: Splits,
    proposal: Proposal,
    costs: Mapping[str, Tensor],
    macs: Mapping[str, int],
    align: int,
) -> list[_Layer]:
    """Every set of coupled channels that can be cut, once."""
    parts = units(model)
    example = splits.tune.pixels[:1].to(model.mean.device)
    network = deepcopy(model.network).double()
    graph = Graph.of(network, ((example - model.mean) / model.std).double())
    if isinstance(graph, str):
        raise UsageError(f"no budget can be kept: this network cannot be cut ({graph}).")
    weights = {name: sum(p.numel() for p in module.parameters()) for name, module in model.network.named_modules()}
    guilty = set(proposal.guilty)
    found: list[_Layer] = []
    seen: set[str] = set()
    for name in parts:
        if name in seen:
            continue
        reach = graph.reach(name)
        if reach.obstacle:
            continue  # operate() says why, should a guilty filter be in it
        seen.update(station.name for station in reach.stations if station.end == "out")
        blocks = _blocks(reach, _ranked(reach, parts, costs, guilty), align)
        if blocks:
            found.append(_Layer(name, blocks, _with_each(reach, macs), _with_each(reach, weights)))
    return found


def _with_each(reach: Reach, amounts: Mapping[str, int]) -> float:
    """How much of these amounts, by layer, goes with one of the channels."""
    parts = (amounts.get(s.name, 0) * len(s.positions) / s.size for s in reach.stations)
    return sum(parts) / reach.width


def _blocks(reach: Reach, ranked: Sequence[tuple[int, float]], align: int) -> tuple[_Block, ...]:
    """As many as may go: one block of channels stays at least. Wide layers lose two multiples at a time: where sixteen
    channels are computed at once, nothing is gained from eight.
    """
    found, start = [], 0
    width = reach.width
    step = align if width < 4 * align else 2 * align
    for left in range((width - 1) // step * step, 0, -step):
        if width - left > MOST * width:
            break
        some = ranked[start : width - left]
        found.append(_Block(reach.layer, tuple(channel for channel, _ in some), sum(cost for _, cost in some)))
        start = width - left
    return tuple(found)


def _rates(
    layers: Sequence[_Layer],
    cut: Callable[[Sequence[_Block]], Pruned],
    stopwatch: Stopwatch,
    run: Run,
    task: Task,
) -> dict[str, float]:
    """What a multiplication costs in each layer, as a share of the original's time; only their ratios are used."""
    rates: dict[str, float] = {}
    for layer in sorted(layers, key=lambda layer: -layer.work * len(layer.blocks))[:PROBED]:
        if time.monotonic() > run.deadline:
            break
        saved = 1 - 1 / stopwatch(cut(layer.half).module).speedup
        rates[layer.name] = saved / max(1.0, layer.work * sum(len(block.channels) for block in layer.half))
        task.advance(1, f"{layer.name}: half of it is {100 * saved:.0f} % of the time")
    usual = sorted(rates.values())[len(rates) // 2] if rates else 1.0
    if usual <= 0:
        return {}
    held = {name: min(max(rate, usual / DOUBT), usual * DOUBT) for name, rate in rates.items()}
    return {layer.name: held.get(layer.name, usual) for layer in layers}


def _path(layers: Sequence[_Layer], rates: Mapping[str, float]) -> list[_Block]:
    """All blocks, the least loss for what is gained first; by weights where nothing was timed."""

    def price(layer: _Layer, block: _Block) -> float:
        gain = layer.work * rates[layer.name] if layer.name in rates else layer.weights
        return block.cost / max(gain * len(block.channels), 1e-30)

    priced = [(price(layer, b), layer.name, i, b) for layer in layers for i, b in enumerate(layer.blocks)]
    return [block for *_, block in sorted(priced, key=lambda entry: entry[:3])]


def _ranked(
    reach: Reach, parts: Mapping[str, Unit], costs: Mapping[str, Tensor], guilty: set[Filter]
) -> list[tuple[int, float]]:
    """Every channel and what it costs, the cheapest first; the guilty cost nothing, since they go in any case."""

    def cost(channel: int) -> float:
        filters = [Filter(*row) for row in reach.rows([channel]) if row[0] in parts]
        return 0.0 if guilty & set(filters) else sum(float(costs[f.layer][f.index]) for f in filters)

    return sorted(((channel, cost(channel)) for channel in range(reach.width)), key=lambda pair: (pair[1], pair[0]))


def _operate(
    model: Classifier,
    proposal: Proposal,
    more: list[Filter],
    splits: Splits,
    run: Run,
    align: int,
    costs: Mapping[str, Tensor],
) -> Pruned:
    """Surgery without its own guard, since the weights relearn; nothing useless stays behind, closed for no gain."""
    guilty = set(proposal.guilty)
    while True:
        wanted = replace(proposal, guilty=(*proposal.guilty, *(f for f in more if f not in guilty)))
        pruned = operate(model, wanted, splits, run, align=align, max_accuracy_drop=guard.ANY, costs=costs)
        idle = {filter for filter in pruned.masked if filter not in guilty}
        if not idle:
            return pruned
        more = [filter for filter in more if filter not in idle]


def _held_back(
    pruned: Pruned, model: Classifier, images: Images, run: Run, relearn: Relearn, longer: float, max_drop: float
) -> tuple[Rate, Rate]:
    """Accuracy before and after on images that the judged network did not learn from; not on all, if it is lost."""
    folds = torch.randperm(len(images), generator=torch.Generator().manual_seed(run.seed)).chunk(FOLDS)
    before = after = Rate(0, 0)
    for fold in folds:
        rest = torch.cat([other for other in folds if other is not fold])
        relearned = _relearned(pruned, model, images.take(rest), run, relearn, longer)
        before = _sum(before, guard.accuracy(model, images.take(fold)))
        after = _sum(after, guard.accuracy(relearned, images.take(fold)))
        if not _within(before, after, len(images), max_drop):
            break
    return before, after


def _relearned(
    pruned: Pruned, model: Classifier, images: Images, run: Run, relearn: Relearn, longer: float
) -> Classifier:
    cut = Classifier(deepcopy(pruned.module), model.contract, run.cost).to(model.mean.device)
    relearn(cut, images, longer)
    return cut.eval()


def _within(before: Rate, after: Rate, total: int, max_drop: float) -> bool:
    return (before.hits - after.hits) / total <= max_drop + 1e-12


def _sum(one: Rate, other: Rate) -> Rate:
    return Rate(one.hits + other.hits, one.total + other.total)


def _dearest(blocks: Sequence[_Block], needed: Collection[str]) -> _Block | None:
    """Of the blocks that may come back, the last one of each layer, the one that costs most."""
    last = {block.layer: block for block in blocks}
    return max((b for b in last.values() if b.layer not in needed), key=lambda b: (b.cost, b.layer), default=None)


def _guess(path: Sequence[_Block], budget: Budget, original: int) -> int:
    """How many blocks to try first: work and weights fall with the square of the widths."""
    wanted = max(budget.speedup or 1.0, original / budget.max_bytes if budget.max_bytes else 1.0)
    return min(len(path), max(1, round((1 - 1 / math.sqrt(wanted)) * len(path))))


def _ended(tried: Attempt, budget: Budget, step: int) -> str:
    if step:
        return (
            f"accuracy: it held with {100 * tried.share:.0f} % of all filters gone, "
            f"{tried.speedup:.2f} times as fast and {tried.bytes} bytes"
        )
    reached = [
        *([f"{budget.speedup:g} times as fast"] if budget.speedup is not None else []),
        *([f"at most {budget.max_bytes} bytes"] if budget.max_bytes is not None else []),
    ]
    if tried.reached:
        return f"reached: {' and '.join(reached)}, with {100 * tried.share:.0f} % of all filters gone"
    return (
        f"out of reach: {' and '.join(reached)}; with {100 * tried.share:.0f} % of all filters gone it is "
        f"{tried.speedup:.2f} times as fast and has {tried.bytes} bytes"
    )
