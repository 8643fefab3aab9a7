"""Channel Lipschitz pruning (CLP, ECCV 2022), which needs no image at all.

L_i = sigma_max( W_i as (in, k*k) ) * |gamma_i| / sqrt(var_i + eps)       prune where L_i > mean + u * std of its layer
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harden.network import Classifier, Unit, units
from harden.types import Evidence, Filter, Proposal, Run, Splits


@dataclass(frozen=True)
class Lipschitz:
    """Outliers of each layer; without a normalisation its factor is 1."""

    u: float = 3.0

    def __call__(self, model: Classifier, splits: Splits, evidence: Evidence, run: Run) -> Proposal:  # noqa: ARG002
        found: list[tuple[float, Filter]] = []
        for name, unit in units(model).items():
            bounds = lipschitz(unit)
            if unit.width > 1:
                over = (bounds - bounds.mean()) / bounds.std().clamp_min(1e-12)
                found += [(float(over[i]), Filter(name, i)) for i in range(unit.width) if over[i] > self.u]
        guilty = tuple(filter for _, filter in sorted(found, key=lambda pair: -pair[0]))
        return Proposal(guilty, (), f"{len(guilty)} filters over mean + {self.u:g} std of their layer")


@torch.no_grad()
def lipschitz(unit: Unit) -> Tensor:
    """An upper bound of how much each filter can amplify, (width,)."""
    bounds: Tensor = torch.linalg.matrix_norm(unit.conv.weight.reshape(unit.width, unit.conv.weight.shape[1], -1), 2)
    norm = unit.norm
    if norm is None or norm.running_var is None:
        return bounds
    scale = torch.ones_like(bounds) if norm.weight is None else norm.weight.abs()
    amplified: Tensor = bounds * scale / (norm.running_var + norm.eps).sqrt()
    return amplified
