"""One operation: what is decided for each layer, what has gone so far, and what was refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Protocol

from torch import Tensor, nn

from harden.network import Classifier, close, units
from harden.pruning import choose, guard, proof
from harden.pruning.channels import Ledger, Reach, Row, close_rows, closed_rows, dead_channels
from harden.pruning.likeness import named
from harden.types import Filter, Proposal, Refusal, Run, Splits

EASIER = 5.0
"""How many times further what is said of mixtures may move, where nothing could go otherwise."""
DEARER = 3.0
"""How many times more accuracy spare filters may then cost, if even that did not help."""


class Knife(Protocol):
    """Whatever can follow channels through a network and cut them out of it."""

    def reach(self, layer: str) -> Reach: ...

    def cut(self, reach: Reach, channels: Sequence[int]) -> Callable[[], None]: ...


class Operation:
    """Two copies of a network with the same filters closed: one keeps its width, the other one is cut."""

    def __init__(
        self,
        model: Classifier,
        proposal: Proposal,
        splits: Splits,
        run: Run,
        align: int,
        max_accuracy_drop: float,
        remove_coupled: bool,
        costs: Mapping[str, Tensor],
    ) -> None:
        self.proposal, self.splits, self.run = proposal, splits, run
        self.align, self.remove_coupled = align, remove_coupled
        self.masked = model.copy().eval()
        self.parts = units(self.masked)
        self.refusals: list[Refusal] = []
        self.guilty = self._known(proposal.guilty)
        self.original_accuracy = guard.accuracy(model, splits.choose)
        close(self.parts, self.guilty)
        self.guard = guard.Guard(self.masked, splits, max_accuracy_drop, run.seed)
        self.inputs = proof.proof_inputs(model, splits.tune, run.seed)
        self.dtypes = {name: tensor.dtype for name, tensor in _tensors(self.masked.network)}
        self.work: nn.Module = deepcopy(self.masked.network).double()
        self.ledger = Ledger()
        self.costs = costs
        self.reestimated = False
        self.result: nn.Module = self.work

    def _known(self, proposed: Sequence[Filter]) -> tuple[Filter, ...]:
        """The proposed filters that exist and that a forward pass reaches, each once."""
        known = []
        for filter in dict.fromkeys(proposed):
            if filter.layer not in self.parts:
                self.refusals.append(Refusal(filter, "not analysed: no convolution of that name is in use"))
            elif not 0 <= filter.index < self.parts[filter.layer].width:
                width = self.parts[filter.layer].width
                self.refusals.append(Refusal(filter, f"there is no such filter: the layer has {width}"))
            else:
                known.append(filter)
        return tuple(known)

    def layers(self) -> list[str]:
        """The layers that hold guilty filters, in the order of the forward pass."""
        touched = choose.by_layer(self.guilty)
        return [name for name in self.parts if name in touched]

    def spare_layers(self) -> list[str]:
        """The layers that hold spare filters, in the order of the forward pass."""
        touched = choose.by_layer(self.proposal.spare)
        return [name for name in self.parts if name in touched]

    def refuse(self, layer: str, reason: str, only: Sequence[Filter] | None = None) -> None:
        """The guilty filters of this layer that are still there stay closed, for this reason."""
        told = {refusal.filter for refusal in self.refusals}
        for filter in self.guilty if only is None else only:
            if filter.layer == layer and self._present(filter) and filter not in told:
                self.refusals.append(Refusal(filter, reason))

    def _present(self, filter: Filter) -> bool:
        kept = self.ledger.kept.get((filter.layer, "out"))
        return kept is None or filter.index in kept

    def layer(self, knife: Knife, name: str) -> None:
        """Cuts what can go out of one layer, and out of all that its channels reach."""
        if all(not self._present(filter) for filter in self.guilty if filter.layer == name):
            return  # gone already, through a layer that shares its channels
        reach = knife.reach(name)
        if reach.obstacle:
            self.refuse(name, reach.obstacle)
        elif time.monotonic() > self.run.deadline:
            self.refuse(name, "the time was up")
        else:
            self.refuse(name, self._attempt(knife, reach))

    def ask_less_of_mixtures(self) -> None:
        """Before every layer is tried once more."""
        self.guard.max_apart *= EASIER
        self._forget_refusals()

    def give_up_alignment(self) -> None:
        """Before every layer is tried once more."""
        self.align = 1
        self._forget_refusals()

    def ask_less_of_accuracy(self, align: int) -> None:
        """Before spare filters are tried once more, in multiples again."""
        self.align = align
        self.guard.max_accuracy_drop *= DEARER

    def _forget_refusals(self) -> None:
        """Of filters that are tried again."""
        self.refusals = [refusal for refusal in self.refusals if refusal.filter not in self.guilty]

    def spare(self, knife: Knife, name: str) -> None:
        """Cuts the spare channels of one layer, down to the least aligned width that the accuracy guard accepts."""
        reach = knife.reach(name)
        if reach.obstacle or time.monotonic() > self.run.deadline:
            return
        original = self.ledger.original(reach)
        unwanted = {*self.guilty, *self.proposal.spare}
        channels = {c for c in range(reach.width) if any(Filter(*original(row)) in unwanted for row in reach.rows([c]))}
        most = len(channels) - (len(channels) - reach.width) % self.align
        order = self._order(reach, original, channels, set())
        for size in range(most if most < reach.width else most - self.align, 0, -self.align):
            cut = order[:size]
            if len(cut) < size or not set(cut) <= channels:
                continue
            if self.guard.accepts(self.guard.price([original(row) for row in reach.rows(cut)])):
                self._cut(knife, reach, original, cut)
                return

    def _attempt(self, knife: Knife, reach: Reach) -> str:
        """Cuts what can go; the reason why what is still there has to stay."""
        original = self.ledger.original(reach)
        guilty = set(self.guilty)
        wanted = {c for c in range(reach.width) if any(Filter(*original(row)) in guilty for row in reach.rows([c]))}
        dead = dead_channels(self.work, reach, self.inputs) & wanted
        order = self._order(reach, original, wanted, dead)
        tried = self._largest(reach, original, order, wanted, dead)
        if isinstance(tried, str):
            return tried
        return self._cut(knife, reach, original, tried) or (
            f"the accuracy guard let only {len(tried)} of the layer's {reach.width} filters go"
        )

    def _order(self, reach: Reach, original: Callable[[Row], Row], wanted: set[int], dead: set[int]) -> list[int]:
        """The channels that may go, the ones that cost nothing first: guilty before useless, useless before cheap."""
        coupled = {c for c in range(reach.width) if len(reach.producers(c)) > 1}
        named = {filter: place for place, filter in reversed(list(enumerate(self.proposal.useless)))}

        def key(channel: int) -> tuple[int, float, int]:
            filters = [Filter(*original(row)) for row in reach.rows([channel])]
            cost = sum(self._cost(filter) for filter in filters if filter.layer in self.parts)
            if channel in wanted:
                return (0 if channel in dead else 1), cost, channel
            places = [named[filter] for filter in filters if filter in named]
            return (2, float(min(places)), channel) if places else (3, cost, channel)

        free = [c for c in range(reach.width) if self.remove_coupled or c not in coupled or c in dead]
        return sorted(free, key=key)

    def _cost(self, filter: Filter) -> float:
        if not self.costs:
            pictures = named(self.masked, self.splits.tune, self.run.seed)
            self.costs = guard.costs(self.masked, self.parts, pictures)
        return float(self.costs[filter.layer][filter.index])

    def _largest(
        self, reach: Reach, original: Callable[[Row], Row], order: list[int], wanted: set[int], dead: set[int]
    ) -> list[int] | str:
        """The channels to cut: as many as the guilty and the alignment ask for and the guard accepts; or why none."""
        sharing = max(len(reach.producers(channel)) for channel in wanted) - 1
        if not wanted & set(order):
            return f"its channel is shared with {sharing} other layers"
        sizes = choose.cut_sizes(reach.width, len(wanted & set(order)), self.align)
        if not sizes:
            return f"the layer has {reach.width} filters: an aligned width would leave none"
        prices = []
        for size in choose.thinned(sizes):
            cut = order[:size]
            if len(cut) < size:
                continue
            if set(cut) <= dead:
                return cut
            prices.append((size, self.guard.price([original(row) for row in reach.rows(cut)])))
            if self.guard.accepts(prices[-1][1]):
                return cut
        if not prices:
            return f"its channel is shared with {sharing} other layers"
        size, price = min(prices, key=lambda pair: pair[1])
        where = f", and out of the {sharing} other layers that share their channels" if sharing else ""
        return (
            f"{size} of the layer's {reach.width} filters would have to go to reach a multiple of {self.align}{where}: "
            f"{self.guard.refusal(price)}"
        )

    def _cut(self, knife: Knife, reach: Reach, original: Callable[[Row], Row], channels: list[int]) -> str:
        """Cuts and proves; on failure everything is as before, and the reason comes back."""
        rows = reach.rows(channels)
        with closed_rows(self.work, rows):
            expected = proof.outputs(self.work, self.inputs)
            undo = None
            try:
                undo = knife.cut(reach, channels)
                gap = proof.difference(expected, proof.outputs(self.work, self.inputs))
                failure = "" if gap <= proof.TOLERANCE else f"the network computed otherwise without it ({gap:.0e})"
            except Exception as error:  # a forward pass through a broken network may raise anything
                failure = f"the network broke without it: {type(error).__name__}: {error}"
            if failure and undo is not None:
                undo()
        if failure:
            return failure
        close_rows(self.masked.network, [original(row) for row in rows])
        self.ledger.drop(reach, channels)
        return ""

    def finish(self, renew_statistics: bool) -> None:
        """The last proof, of all cuts together; the weights' own precision; statistics renewed if that helps."""
        network = deepcopy(self.masked.network).double()
        gap = proof.difference(proof.outputs(network, self.inputs), proof.outputs(self.work, self.inputs))
        if gap > proof.TOLERANCE:
            self.ledger = Ledger()
            self.work = network
            for name in self.layers():
                self.refuse(name, f"all removals together changed the network ({gap:.0e}), so none was kept")
        del network
        for name, tensor in _tensors(self.work):
            tensor.data = tensor.data.to(self.dtypes[name])
        self.result = self.work.eval()
        if renew_statistics:
            pruned = Classifier(self.result, self.masked.contract, self.run.cost).to(self.masked.mean.device)
            self.reestimated = guard.reestimate(
                pruned, self.splits.tune, self.splits.choose, self.original_accuracy, seed=self.run.seed
            )

    def width(self, name: str) -> int:
        """What is left of a layer."""
        kept = self.ledger.kept.get((name, "out"))
        return self.parts[name].width if kept is None else len(kept)

    def removed(self) -> tuple[Filter, ...]:
        """Every filter that is no longer in the file."""
        every = (filter for unit in self.parts.values() for filter in unit.filters())
        return tuple(filter for filter in every if not self._present(filter))

    def masked_filters(self) -> tuple[Filter, ...]:
        """Every guilty filter that is closed and still in the file, by its original position."""
        return tuple(filter for filter in self.guilty if self._present(filter))


def _tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    """All of them, those that a state dict leaves out as well."""
    return [*network.named_parameters(), *network.named_buffers()]
