"""Guilty filters leave the network for good: the only place that knows torch-pruning.

    close the guilty filters in a copy, at full width            -> masked
    for every layer that has one:
        which of its channels are dead, and which would the accuracy guard let go
        cut them out of a second copy, in float64, all at once   -> pruned
        pruned(x) == masked(x), or the cut is undone
    renew the batch normalisation's statistics, if that helps

What cannot go stays in the file, closed, with the reason. torch-pruning says of most networks that it breaks that all
is well, so nothing is believed that has not been proved; known traps are refused before they do harm.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch_pruning import ops

from harden.network import Classifier, units
from harden.pruning import record
from harden.pruning.channels import Reach, Role, Station
from harden.pruning.operation import Operation
from harden.types import Images, LayerWidth, Proposal, Pruned, Run, Splits

UNREADABLE = "torch-pruning cannot follow this network: "
ENTANGLED = "its channels are entangled with others, by a shuffle or a split"


def operate(
    model: Classifier,
    proposal: Proposal,
    splits: Splits,
    run: Run,
    *,
    align: int = 8,
    max_accuracy_drop: float = 0.01,
    remove_coupled: bool = True,
    renew_statistics: bool = True,
    alone: bool = True,
    costs: Mapping[str, Tensor] | None = None,
) -> Pruned:
    """The network without its guilty filters, as small as the proof and the accuracy guard allow.

    align               layers end at multiples of this many filters; 1 switches it off
    max_accuracy_drop   what all removals together may cost on splits.choose, besides what closing the guilty costs
    remove_coupled      filters of a residual stream may go, out of every layer that shares it, if the guard agrees
    renew_statistics    batch normalisation's statistics may be estimated again, if accuracy fell and where it helps
    alone               where nothing at all could go, what is said of mixtures may move further, for a repair to bring
                        back; and where that does not help either, the guilty go without others: closed as they are,
                        they cost nothing more, but widths that are no multiples are slow; and if they cannot either,
                        accuracy may fall further, for spare filters alone: who proposes those repairs afterwards
    costs               what closing each filter would cost (guard.costs), if that is known already
    """
    operation = Operation(model, proposal, splits, run, align, max_accuracy_drop, remove_coupled, costs or {})
    layers, spare = operation.layers(), operation.spare_layers()
    if layers or spare:
        graph: Graph | str = Graph.of(operation.work, operation.inputs[:1])
        with run.progress.task("surgery", len(layers) + len(spare)) as task:

            def cut(guilty: Sequence[str], others: Sequence[str] = ()) -> None:
                for layer in guilty:
                    if isinstance(graph, str):
                        operation.refuse(layer, UNREADABLE + graph)
                    else:
                        operation.layer(graph, layer)
                    task.advance(note=layer)
                for layer in others:
                    if not isinstance(graph, str):
                        operation.spare(graph, layer)
                    task.advance(note=layer)

            cut(layers, spare)
            if alone and not operation.removed():
                operation.ask_less_of_mixtures()
                cut(layers, spare)
            if alone and not operation.removed():
                operation.give_up_alignment()
                cut(layers)
            if alone and not operation.removed() and spare:
                operation.ask_less_of_accuracy(align)
                cut((), spare)
    operation.finish(renew_statistics)
    widths = {name: unit.width for name, unit in operation.parts.items()}
    return Pruned(
        module=operation.result,
        removed=operation.removed(),
        masked=operation.masked_filters(),
        refusals=tuple(operation.refusals),
        layers=tuple(LayerWidth(name, width, operation.width(name)) for name, width in widths.items()),
        filters_total=sum(widths.values()),
        record=record.describe(operation),
        rounds=proposal.rounds,
        stopped_because=proposal.stopped_because,
    )


def cuttable(model: Classifier, images: Images) -> list[Reach]:
    """Where the channels of each convolution run, of those out of which something can be cut."""
    graph = Graph.of(model.copy().network, (images.pixels[:1].to(model.mean.device) - model.mean) / model.std)
    if isinstance(graph, str):
        return []
    return [reach for reach in map(graph.reach, units(model)) if not reach.obstacle]


class Graph:
    """What torch-pruning knows of a network, made safe: reach() refuses known traps, cut() can be undone."""

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self.network = network
        self.example = example
        self.names: dict[nn.Module, str] = {module: name for name, module in network.named_modules()}
        self.parameter_names = dict(network.named_parameters())
        self.often = _used_often(network, example)
        self.shared = _shared(network)
        self._read()

    @classmethod
    def of(cls, network: nn.Module, example: Tensor) -> Graph | str:
        """The graph, or why there is none."""
        try:
            return cls(network, example)
        except Exception as error:  # whatever a foreign forward pass or a foreign library may raise
            return f"{type(error).__name__}: {error}"

    def _read(self) -> None:
        self.network.eval().requires_grad_(True)  # a frozen layer is invisible to torch-pruning, and nobody is told
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.graph = _Dependencies().build_dependency(self.network, (self.example,), verbose=False)

    def _group(self, layer: str, channels: Sequence[int]) -> Any:
        conv = self.network.get_submodule(layer)
        cut = tp.prune_linear_out_channels if isinstance(conv, nn.Linear) else tp.prune_conv_out_channels
        return self.graph.get_pruning_group(conv, cut, list(channels))

    def reach(self, layer: str) -> Reach:
        """Where the channels of this convolution run through, or why they cannot be cut."""
        conv = self.network.get_submodule(layer)
        if not isinstance(conv, nn.Conv2d | nn.Linear) or conv not in self.graph.module2node:
            return Reach(layer, 0, obstacle="not analysed: torch-pruning does not see this layer")
        width = len(conv.weight)
        try:
            group = self._group(layer, range(width))
            stations = []
            for item in group:
                role, obstacle = self._role(item)
                if obstacle:
                    return Reach(layer, width, obstacle=obstacle)
                if role:
                    stations.append(self._station(item, role))
        except IndexError:  # it arrives at positions that do not exist
            return Reach(layer, width, obstacle=ENTANGLED)
        except Exception as error:
            return Reach(layer, width, obstacle=f"{UNREADABLE}{type(error).__name__}: {error}")
        # Through a shuffle or a split, torch-pruning arrives there too without noticing.
        if any(station.positions and station.positions[-1] >= station.size for station in stations):
            return Reach(layer, width, obstacle=ENTANGLED)
        return Reach(layer, width, tuple(stations))

    def _name(self, target: nn.Module | nn.Parameter) -> str:
        if isinstance(target, nn.Parameter):
            return next(name for name, parameter in self.network.named_parameters() if parameter is target)
        return str(self.names[target])

    def _role(self, item: Any) -> tuple[Role | None, str]:
        """What this layer is to the channels; or the obstacle that it is."""
        target = item.dep.target.module
        out = self.graph.is_out_channel_pruning_fn(item.dep.handler)
        if isinstance(target, ops._OutputOp):
            return None, "it feeds the output: a class would be lost"
        if isinstance(target, nn.Parameter):
            return "through", ""
        if target in self.graph.mixers:
            return None, ENTANGLED
        if target not in self.names:  # an operation without weights
            return None, ""
        name = self.names[target]
        if name in self.often:
            return None, f"{name} is used more than once in a pass"
        if name in self.shared:
            return None, f"{name} shares its weights with another layer"
        if isinstance(target, nn.Conv2d):
            if type(target).__module__ == "timm.layers.std_conv" and (not out or hasattr(target, "gain")):
                return None, f"{name} standardises its weights over all of its inputs at once"
            if target.groups == 1:
                return ("producer" if out else "consumer"), ""
            if target.groups == target.in_channels == target.out_channels:
                return "through", ""
            return None, f"{name} is a convolution in {target.groups} groups, which would lose their balance"
        if isinstance(target, nn.Linear):
            return ("producer" if out else "consumer"), ""
        if isinstance(target, _BatchNorm | nn.InstanceNorm2d | nn.PReLU):
            return "through", ""
        if isinstance(target, nn.LayerNorm | nn.GroupNorm):
            return None, f"{name} normalises over several channels at once: without one of them it computes otherwise"
        if next(target.parameters(recurse=True), None) is None:
            return None, ""
        return None, f"{name} is a {type(target).__name__}, which cannot be narrowed"

    def _station(self, item: Any, role: Role) -> Station:
        target = item.dep.target.module
        counts = self.graph.get_in_channels if role == "consumer" else self.graph.get_out_channels
        size = counts(item.dep.target)
        pairs = sorted(zip(item.idxs, item.root_idxs, strict=True))
        if size is None:  # a PReLU with one slope for all
            size = max(item.idxs) + 1
        return Station(self._name(target), role, size, tuple(p for p, _ in pairs), tuple(r for _, r in pairs))

    def cut(self, reach: Reach, channels: Sequence[int]) -> Callable[[], None]:
        """Cuts these channels out of everything they reach; gives back what undoes it."""
        group = self._group(reach.layer, channels)
        found = {self._station(item, role).name: set(item.idxs) for item in group if (role := self._role(item)[0])}
        gone = set(channels)
        asked = {s.name: {p for p, c in zip(s.positions, s.channels, strict=True) if c in gone} for s in reach.stations}
        if found != {name: positions for name, positions in asked.items() if positions}:
            raise ValueError(ENTANGLED)
        undo = self._remember(
            [
                self.network.get_submodule(n.rpartition(".")[0]) if self._bare(n) else self.network.get_submodule(n)
                for n in found
            ]
        )
        try:
            group.prune(record_history=False)
        except BaseException:
            undo()
            raise
        return undo

    def _bare(self, name: str) -> bool:
        return name not in self.names.values()

    def _remember(self, modules: Sequence[nn.Module]) -> Callable[[], None]:
        """A cut replaces parameters and never writes into them: the old ones are enough to go back."""
        saved = [
            (
                module,
                {
                    key: copy(value) if key in ("_parameters", "_buffers") else value
                    for key, value in vars(module).items()
                },
            )
            for module in modules
        ]

        def undo() -> None:
            for module, state in saved:
                vars(module).clear()
                vars(module).update(state)
            self._read()

        return undo


class _Dependencies(tp.DependencyGraph):  # type: ignore[misc]  # torch-pruning has no types
    """torch-pruning's graph, of networks too that shuffle their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.mixers: set[Any] = set()
        """Where pictures of more than four dimensions take another shape: how channels lie behind it is not known."""

    def _build_dependency(self, module2node: Mapping[Any, Any]) -> None:
        super()._build_dependency(module2node)
        for target, node in module2node.items():
            if node.type == ops.OPTYPE.RESHAPE and len(getattr(node.grad_fn, "_saved_self_sym_sizes", ())) > 4:
                node.type = ops.OPTYPE.ELEMENTWISE  # else it is taken for a flattening, and divided by zero
                self.mixers.add(target)


def _used_often(network: nn.Module, example: Tensor) -> set[str]:
    """Layers with weights that a forward pass enters more than once."""
    calls: dict[str, int] = {}
    handles = []
    for name, module in network.named_modules():
        if next(module.parameters(recurse=False), None) is not None:

            def count(*_: Any, name: str = name) -> None:
                calls[name] = calls.get(name, 0) + 1

            handles.append(module.register_forward_pre_hook(count))
    try:
        with torch.no_grad():
            network(example)
    finally:
        for handle in handles:
            handle.remove()
    return {name for name, number in calls.items() if number > 1}


def _shared(network: nn.Module) -> set[str]:
    """Modules that hold a parameter that another module holds as well."""
    holders: dict[int, list[str]] = {}
    for name, module in network.named_modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), []).append(name)
    return {name for names in holders.values() if len(names) > 1 for name in names}
