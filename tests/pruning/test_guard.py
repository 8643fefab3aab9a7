"""What a cut may cost, which filters are cheap, and statistics that are only renewed where it helps."""

from __future__ import annotations

import torch
from torch import nn

from harden.network import Classifier, units
from harden.pruning import guard
from harden.types import Cost, Rate, Splits
from tests.planted import Planted
from tests.pruning.nets import network, splits


def test_the_guard_counts_what_closing_costs_and_opens_again(planted: Planted, planted_splits: Splits) -> None:
    watch = guard.Guard(planted.model, planted_splits, 0.01, seed=0)
    assert watch.before.right == 1.0
    nothing = watch.price([("conv1", 9), ("bn1", 9)])
    assert nothing.drop == 0.0
    assert nothing.apart < 1e-6
    assert watch.accepts(nothing)
    colours = [(layer, i) for layer in ("conv1", "bn1") for i in (0, 1, 2)]
    lost = watch.price(colours)  # what is left is a guess
    assert lost.drop > 0.3
    assert lost.apart > 0.3
    assert not watch.accepts(lost)
    assert "points of accuracy" in watch.refusal(lost)
    assert guard.standing(planted.model, planted_splits.choose) == watch.before


def test_a_guard_that_lets_everything_pass_looks_at_no_image(planted: Planted, planted_splits: Splits) -> None:
    model = planted.model.copy()
    rows = [("conv1", 0), ("bn1", 0)]
    for allowed, looks in ((0.99, True), (guard.ANY, False)):
        model.cost = Cost()
        watch = guard.Guard(model, planted_splits, allowed, seed=0)
        assert watch.accepts(watch.price(rows))
        assert (model.cost.forward_images > 0) == looks


def test_what_is_said_of_mixtures_counts_where_no_image_notices(planted: Planted, planted_splits: Splits) -> None:
    watch = guard.Guard(planted.model, planted_splits, 0.01, seed=0)
    moved = guard.Price(drop=0.0, apart=0.03)
    assert not watch.accepts(moved)
    assert "0.030 nats" in watch.refusal(moved)
    assert guard.Guard(planted.model, planted_splits, 1.0, seed=0).accepts(moved), "any price"


def test_two_images_on_the_border_are_no_loss() -> None:
    before = guard.Standing(right=0.90, believed=0.850)
    assert before.lost(guard.Standing(right=0.88, believed=0.849)) < 0.0011, "they changed sides by chance"
    assert before.lost(guard.Standing(right=0.90, believed=0.700)) == 0.0, "less sure, but right"
    assert before.lost(guard.Standing(right=0.85, believed=0.800)) > 0.04


def test_idle_filters_cost_least(planted: Planted, planted_splits: Splits) -> None:
    row = guard.costs(planted.model, units(planted.model), planted_splits.tune)["conv1"]
    assert float(row[:3].min()) > float(row[4:].max())


def test_costs_are_the_mean_squares_of_each_images_gradient() -> None:
    model, tune = network("plain"), splits().tune
    unit = units(model)["middle.3.0"]
    total = torch.zeros(unit.width, dtype=torch.float64)
    for n in range(len(tune)):
        gate = torch.ones(1, unit.width, 1, 1, requires_grad=True)
        handle = model.network.get_submodule(unit.norm_name).register_forward_hook(
            lambda *called, gate=gate: called[2] * gate
        )
        loss = nn.functional.cross_entropy(model(tune.pixels[n : n + 1]), tune.labels[n : n + 1])
        total += torch.autograd.grad(loss, gate)[0].flatten().double().square()
        handle.remove()
    found = guard.costs(model, units(model), tune, batch=3)[unit.name]
    torch.testing.assert_close(found, total / (2 * len(tune)), rtol=1e-4, atol=1e-12)


def shifted(planted: Planted) -> Classifier:
    """Its first normalisation believes in statistics that are far from the truth."""
    model = planted.model.copy()
    norm = model.network.get_submodule("bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    norm.running_mean += 3 * norm.running_mean.abs() + 1
    return model


def test_wrong_statistics_are_renewed(planted: Planted, planted_splits: Splits) -> None:
    model = shifted(planted)
    before = guard.accuracy(planted.model, planted_splits.choose)
    assert guard.accuracy(model, planted_splits.choose).hits < before.hits
    assert guard.reestimate(model, planted_splits.tune, planted_splits.choose, before)
    assert guard.accuracy(model, planted_splits.choose).value > 0.9
    assert not any(module.training for module in model.modules())
    assert all(m.momentum == 0.1 for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_statistics_stay_where_accuracy_did_not_fall(planted: Planted, planted_splits: Splits) -> None:
    model = shifted(planted)
    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert not guard.reestimate(model, planted_splits.tune, planted_splits.choose, Rate(0, 1))
    assert all(torch.equal(buffer, saved[name]) for name, buffer in model.named_buffers())


def test_statistics_that_do_not_help_are_put_back(planted: Planted, planted_splits: Splits) -> None:
    model = planted.model
    saved = {name: buffer.clone() for name, buffer in model.named_buffers()}
    images = planted_splits.choose
    impossible = Rate(len(images) + 1, len(images))
    assert not guard.reestimate(model, planted_splits.tune, images, impossible)
    assert all(torch.equal(buffer, saved[name]) for name, buffer in model.named_buffers())
