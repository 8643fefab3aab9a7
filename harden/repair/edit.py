"""Editing late layers by their activations, inspired by 2407.07662 (its exact formula is not public).

    v_i   = mean activation of filter i on triggered images - the same on clean images
    scale = 1 - gamma * max(0, v_i) / max v         of filter i's last affine step, in the last few layers

gamma grows until the triggers no longer work on the split made for choosing; then a few epochs on clean images.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harden.network import Classifier, Unit, predict, units
from harden.repair.fine_tune import FineTune
from harden.repair.losses import accuracy
from harden.repair.train import Schedule, or_as_it_was
from harden.triggers.attacked import attacked
from harden.types import GUILTY, Evidence, Images, Run, Splits


@dataclass(frozen=True)
class EditLateLayers:
    """Needs triggers, given or recovered; without any it changes nothing."""

    layers: int = 4
    """The last so many convolutions."""
    gammas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    until: float = 0.05
    """Success of the triggers at which gamma is large enough."""
    mostly: float = 0.5
    """A filter that lost this share of its size counts as guilty."""
    repair: FineTune | None = field(
        default_factory=lambda: FineTune(Schedule(epochs=5, least_steps=20, rate=0.001, freeze_norm=True))
    )
    """None: the edit alone."""

    def __call__(
        self, model: Classifier, suspect: Classifier, splits: Splits, evidence: Evidence, run: Run
    ) -> Mapping[str, Any]:
        if not evidence.triggers:
            return {"gamma": 0.0, "stopped_because": "no trigger was recovered, so nothing was changed"}
        as_it_was = deepcopy(model.state_dict())
        parts = dict(list(units(model).items())[-self.layers :])
        triggered = mean_activations(model, parts, attacked(evidence.triggers, splits.tune).images)
        clean = mean_activations(model, parts, splits.tune)
        v = {name: (triggered[name] - clean[name]).clamp(min=0) for name in parts}
        watched = attacked(evidence.triggers, splits.choose)
        before = {name: [p.detach().clone() for p in unit.gate_parameters()] for name, unit in parts.items()}
        tried, because = [], "every gamma tried, and the triggers still work"
        for gamma in self.gammas:
            lost = {name: gamma * row / row.max().clamp_min(1e-12) for name, row in v.items()}
            _scale(parts, before, {name: 1 - row for name, row in lost.items()})
            success = watched.success(predict(model, watched.images).argmax(1))
            tried.append({"gamma": gamma, "success": success.value, "accuracy": accuracy(model, splits.choose).value})
            if success.value <= self.until:
                because = f"the triggers work on {success}"
                break
        record: dict[str, Any] = {"tried": tried, "gamma": gamma, "stopped_because": because}
        ranked = sorted((-x, name, i) for name, row in lost.items() for i, x in enumerate(row.tolist()))
        record[GUILTY] = [[name, i] for x, name, i in ranked if -x >= self.mostly]
        if self.repair is not None:
            told = dict(self.repair(model, suspect, splits, evidence, run))
            record["repair"] = or_as_it_was(model, as_it_was, told)
        return record


@torch.no_grad()
def _scale(parts: Mapping[str, Unit], before: Mapping[str, list[Tensor]], scales: Mapping[str, Tensor]) -> None:
    for name, unit in parts.items():
        for parameter, value in zip(unit.gate_parameters(), before[name], strict=True):
            parameter.copy_(value * scales[name].view(-1, *[1] * (value.dim() - 1)))


def mean_activations(model: Classifier, parts: Mapping[str, Unit], images: Images) -> dict[str, Tensor]:
    """Mean over images and positions of max(0, output) of every filter."""
    total = {name: torch.zeros(unit.width, device=unit.conv.weight.device) for name, unit in parts.items()}

    def hook(name: str) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
            total[name] += parts[name].channels_first(output.detach()).clamp(min=0).mean((2, 3)).sum(0)

        return add

    handles = [unit.last.register_forward_hook(hook(name)) for name, unit in parts.items()]
    try:
        predict(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return {name: row / max(1, len(images)) for name, row in total.items()}
