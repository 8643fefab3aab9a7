"""Smaller and faster until a budget holds: after the guilty filters, the least useful ones go too.

    cost_c    what closing channel c would cost: the guard's estimate, summed over all filters that share the channel
    s         share of every layer that goes, cheapest channels first, rounded so that what is left is aligned
    reached   the file exported from it is so small, or so fast in turns with the original's, beyond chance

The least s that reaches the budget is found by halving: speed and size depend on shapes alone, so nothing is trained
meanwhile. Then the weights relearn, and if accuracy fell by more than max_drop, s goes back until it holds: the result
says which budget ended the search.

    accuracy   each fold of the images (to tune and to choose) is judged by a network that relearned from the others

Nobody is judged on what it learned from, and all images count: the fifth of them that chooses is too few to see a
point of accuracy go. What ships has relearned from all of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harden.data import together
from harden.errors import UsageError
from harden.network import Classifier, Unit, units
from harden.pruning import guard
from harden.pruning.channels import Reach
from harden.pruning.surgery import Graph, operate
from harden.types import Attempt, Filter, Images, Proposal, Pruned, Rate, Run, Splits
from harden_export.candidate import Stopwatch

MOST = 0.9
"""Of a layer: beyond that, little is left to relearn with."""
FINEST = 0.03
"""Shares that differ by less give the same aligned widths."""
BACKWARDS = 3
"""Smaller shares that are tried when accuracy does not hold."""
FOLDS = 3
Relearn = Callable[[Classifier, Images], object]
"""Moves the weights of a cut network in place, by these images."""


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
    """Networks that are exported and timed."""
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
    layers = _layers(model, splits, proposal, align)
    attempts: list[Attempt] = []

    def cut(share: float) -> Pruned:
        more = [Filter(*filter) for layer in layers for filter in layer.cheapest(share)]
        done = _operate(model, proposal, more, splits, run, align)
        return replace(done, stopped_because=proposal.stopped_because)

    with Stopwatch(
        model.network,
        input_size=model.contract.input_size,
        threads=budget.threads,
        seconds=budget.seconds,
        provider=budget.provider,
    ) as stopwatch:

        def attempt(share: float) -> tuple[Pruned, Attempt]:
            pruned = cut(share)
            found = stopwatch(pruned.module)
            reached = found.reaches(speedup=budget.speedup, max_bytes=budget.max_bytes)
            speed = found.latency
            return pruned, Attempt(share, found.bytes, speed.speedup, speed.speedup_low, reached)

        with run.progress.task("budget", budget.tries) as task:
            low, high, best = 0.0, MOST, None
            share = _guess(budget, stopwatch.original.bytes)
            while len(attempts) < budget.tries and high - low > FINEST and time.monotonic() < run.deadline:
                pruned, tried = attempt(share)
                attempts.append(tried)
                task.advance(note=f"{100 * share:.0f} % of every layer: {tried.speedup:.2f} times as fast")
                if tried.reached:
                    high, best = share, (pruned, tried)
                else:
                    low = share
                share = (low + high) / 2
        if best is None:
            best = attempt(MOST)
            attempts.append(best[1])
        pruned, tried = best
        for step in range(BACKWARDS + 1):
            images = together(splits.tune, splits.choose)
            before, accuracy = _held_back(pruned, model, images, run, relearn, budget.max_drop)
            tried = replace(tried, accuracy=accuracy)
            attempts.append(tried)
            if _within(before, accuracy, len(images), budget.max_drop):
                healed = replace(pruned, module=_relearned(pruned, model, images, run, relearn).network)
                return Shrunk(healed, tried.reached, _ended(tried, budget, step), tuple(attempts))
            if step == BACKWARDS or time.monotonic() > run.deadline:
                break
            pruned, tried = attempt(tried.share * 0.75)
    return Shrunk(
        cut(0.0),
        False,
        f"accuracy: even with {100 * tried.share:.0f} % of every layer gone it fell by more than "
        f"{100 * budget.max_drop:g} points, so only the guilty filters went",
        tuple(attempts),
    )


@dataclass(frozen=True)
class _Layer:
    """The channels of one coupling set, by one convolution that writes them."""

    name: str
    width: int
    order: tuple[int, ...]
    """Cheapest first, the guilty before all others."""
    align: int

    def cheapest(self, share: float) -> list[tuple[str, int]]:
        """The channels that go, so that an aligned number is left and at least one block of them."""
        left = max(self.align, round(self.width * (1 - share) / self.align) * self.align)
        return [(self.name, channel) for channel in self.order[: max(0, self.width - left)]] if share else []


def _layers(model: Classifier, splits: Splits, proposal: Proposal, align: int) -> list[_Layer]:
    """Every set of coupled channels that can be cut, once."""
    parts = units(model)
    example = splits.tune.pixels[:1].to(model.mean.device)
    network = deepcopy(model.network).double()
    graph = Graph.of(network, ((example - model.mean) / model.std).double())
    if isinstance(graph, str):
        raise UsageError(f"no budget can be kept: this network cannot be cut ({graph}).")
    costs = guard.costs(model, parts, splits.tune)
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
        found.append(_Layer(name, reach.width, _order(reach, parts, costs, guilty), align))
    return found


def _order(
    reach: Reach, parts: Mapping[str, Unit], costs: Mapping[str, Tensor], guilty: set[Filter]
) -> tuple[int, ...]:
    def key(channel: int) -> tuple[bool, float, int]:
        filters = [Filter(*row) for row in reach.rows([channel]) if row[0] in parts]
        cost = sum((float(costs[f.layer][f.index]) for f in filters), start=0.0)
        return not guilty & set(filters), cost, channel

    return tuple(sorted(range(reach.width), key=key))


def _operate(model: Classifier, proposal: Proposal, more: list[Filter], splits: Splits, run: Run, align: int) -> Pruned:
    """Surgery without its own guard, since the weights relearn; nothing useless stays behind, closed for no gain."""
    guilty = set(proposal.guilty)
    while True:
        wanted = replace(proposal, guilty=(*proposal.guilty, *(f for f in more if f not in guilty)))
        pruned = operate(model, wanted, splits, run, align=align, max_accuracy_drop=1.0)
        idle = {filter for filter in pruned.masked if filter not in guilty}
        if not idle:
            return pruned
        more = [filter for filter in more if filter not in idle]


def _held_back(
    pruned: Pruned, model: Classifier, images: Images, run: Run, relearn: Relearn, max_drop: float
) -> tuple[Rate, Rate]:
    """Accuracy before and after on images that the judged network did not learn from; not on all, if it is lost."""
    folds = torch.randperm(len(images), generator=torch.Generator().manual_seed(run.seed)).chunk(FOLDS)
    before = after = Rate(0, 0)
    for fold in folds:
        rest = torch.cat([other for other in folds if other is not fold])
        relearned = _relearned(pruned, model, images.take(rest), run, relearn)
        before = _sum(before, guard.accuracy(model, images.take(fold)))
        after = _sum(after, guard.accuracy(relearned, images.take(fold)))
        if not _within(before, after, len(images), max_drop):
            break
    return before, after


def _relearned(pruned: Pruned, model: Classifier, images: Images, run: Run, relearn: Relearn) -> Classifier:
    cut = Classifier(deepcopy(pruned.module), model.contract, run.cost).to(model.mean.device)
    relearn(cut, images)
    return cut.eval()


def _within(before: Rate, after: Rate, total: int, max_drop: float) -> bool:
    return (before.hits - after.hits) / total <= max_drop + 1e-12


def _sum(one: Rate, other: Rate) -> Rate:
    return Rate(one.hits + other.hits, one.total + other.total)


def _guess(budget: Budget, original: int) -> float:
    """Work and weights fall with the square of the widths."""
    wanted = max(budget.speedup or 1.0, original / budget.max_bytes if budget.max_bytes else 1.0)
    return min(MOST, max(FINEST, 1 - 1 / math.sqrt(wanted)))


def _ended(tried: Attempt, budget: Budget, step: int) -> str:
    if step:
        return (
            f"accuracy: it held with {100 * tried.share:.0f} % of every layer gone, "
            f"{tried.speedup:.2f} times as fast and {tried.bytes} bytes"
        )
    reached = [
        *([f"{budget.speedup:g} times as fast"] if budget.speedup is not None else []),
        *([f"at most {budget.max_bytes} bytes"] if budget.max_bytes is not None else []),
    ]
    if tried.reached:
        return f"reached: {' and '.join(reached)}, with {100 * tried.share:.0f} % of every layer gone"
    return (
        f"out of reach: {' and '.join(reached)}; with {100 * tried.share:.0f} % of every layer gone it is "
        f"{tried.speedup:.2f} times as fast and has {tried.bytes} bytes"
    )
