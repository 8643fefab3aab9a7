"""The published pruners: what each one closes, and that it does not without the idea that it lives by."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harden.network import Classifier, predict, units
from harden.pruning.anp import AdversarialMask
from harden.pruning.clp import Lipschitz, lipschitz
from harden.pruning.dormant import Dormant
from harden.pruning.multipliers import multiplied, ones
from harden.pruning.ranked import largest_harmless, lowest, up_to
from harden.pruning.rnp import UnlearnThenRecover
from harden.repair.train import Schedule
from harden.repair.unlearn import Unlearn
from harden.types import Evidence, Filter, Run, Splits
from tests.planted import GUILTY, Planted

NO_EVIDENCE = Evidence("inconclusive", (), (), ())


def test_lipschitz_bounds_by_their_definition(planted: Planted) -> None:
    unit = units(planted.model)["conv1"]
    bounds = lipschitz(unit)
    assert unit.norm is not None
    assert unit.norm.running_var is not None
    for i in (0, 3, 9):
        matrix = unit.conv.weight[i].detach().reshape(3, 9)
        factor = unit.norm.weight[i].abs() / (unit.norm.running_var[i] + unit.norm.eps).sqrt()
        assert torch.isclose(bounds[i], torch.linalg.svdvals(matrix)[0] * factor)


@pytest.mark.parametrize("where", ["weights", "scale"])
def test_a_filter_that_amplifies_strangely_is_closed_and_no_other(
    planted: Planted, planted_splits: Splits, where: str
) -> None:
    with torch.no_grad():
        planted.module.conv1.weight[:] = 0.1 * torch.randn(16, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        planted.module.bn1.weight.fill_(1.0)
        assert planted.module.bn1.running_var is not None
        planted.module.bn1.running_var.fill_(1.0)
        (planted.module.conv1.weight if where == "weights" else planted.module.bn1.weight)[11] *= 20
    found = Lipschitz()(planted.model, planted_splits, NO_EVIDENCE, Run())
    assert found.guilty == (Filter("conv1", 11),)


def test_dormant_filters_of_the_last_layer_go_until_accuracy_pays(planted: Planted, planted_splits: Splits) -> None:
    found = Dormant()(planted.model, planted_splits, NO_EVIDENCE, Run())
    assert found.guilty
    assert {f.layer for f in found.guilty} == {"conv2"}
    assert not {f.index for f in found.guilty} & {0, 1, 2}  # the classes live there
    assert "would cost" in found.stopped_because


def test_a_mask_multiplies_and_noise_moves_as_the_formula_says(planted: Planted) -> None:
    model, x = planted.model, planted.images.pixels[:2]
    parts = units(model)
    before = predict(model, x)
    mask = ones(parts)
    with multiplied(parts, mask):
        assert torch.allclose(predict(model, x), before, atol=1e-4)
    seen: dict[int, torch.Tensor] = {}
    handle = planted.module.relu.register_forward_pre_hook(lambda _, inputs: seen.setdefault(len(seen), inputs[0]))
    predict(model, x)
    d, e = torch.rand(2, 16, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(8)
    with multiplied(parts, mask, {"conv1": d, "conv2": zero}, {"conv1": e, "conv2": zero}):
        predict(model, x)
    handle.remove()
    b = planted.module.bn1.bias.view(1, -1, 1, 1)
    expected = (1 + d).view(1, -1, 1, 1) * (seen[0] - b) + (1 + e).view(1, -1, 1, 1) * b
    assert torch.allclose(seen[2], expected, atol=1e-4)
    assert torch.equal(predict(model, x), before)


def test_adversarial_noise_is_what_lowers_the_masks(planted: Planted, planted_splits: Splits) -> None:
    def proposal(eps: float) -> tuple[Filter, ...]:
        schedule = Schedule(epochs=1, least_steps=120, rate=0.2, weight_decay=0.0)
        prune = AdversarialMask(schedule, eps=eps, thresholds=(0.9,), max_drop=1.0)
        return prune(planted.model, planted_splits, NO_EVIDENCE, Run()).guilty

    assert proposal(0.4)
    assert not proposal(0.0)


def test_only_after_unlearning_do_masks_tell_filters_apart(planted: Planted, planted_splits: Splits) -> None:
    prune = UnlearnThenRecover(thresholds=(0.5,), max_drop=1.0)
    assert prune(planted.model, planted_splits, NO_EVIDENCE, Run()).guilty
    never = replace(prune, unlearn=Unlearn(Schedule(epochs=0, least_steps=0)))
    assert not never(planted.model, planted_splits, NO_EVIDENCE, Run()).guilty


def test_unlearning_that_fails_is_told(planted: Planted, planted_splits: Splits) -> None:
    broken = UnlearnThenRecover(Unlearn(Schedule(epochs=2, rate=1e38, clip=float("inf")), retries=0))
    found = broken(planted.model, planted_splits, NO_EVIDENCE, Run())
    assert found.guilty == ()
    assert "unlearning failed" in found.stopped_because


def test_a_ranking_never_empties_a_layer_and_stops_at_the_bound(planted: Planted, planted_splits: Splits) -> None:
    ranked = lowest({"a": torch.tensor([3.0, 1.0, 2.0]), "b": torch.tensor([5.0])})
    assert ranked == [(Filter("a", 1), 1.0), (Filter("a", 2), 2.0)]
    assert up_to(ranked, (0.5, 1.0, 9.0)) == [0, 1, 2]
    model: Classifier = planted.model
    order = [(GUILTY, 0.1), (Filter("conv1", 9), 0.2), (Filter("conv1", 0), 0.3), (Filter("conv1", 1), 0.4)]
    weight = planted.module.conv1.weight.detach().clone()
    found = largest_harmless(model, order, [1, 2, 3, 4], planted_splits.choose, Run(), max_drop=0.1)
    assert found.guilty == (GUILTY, Filter("conv1", 9))
    assert [(r.number, len(r.closed)) for r in found.rounds] == [(0, 0), (1, 1), (2, 1), (3, 1)]
    assert "would cost" in found.stopped_because
    assert torch.equal(weight, planted.module.conv1.weight)
