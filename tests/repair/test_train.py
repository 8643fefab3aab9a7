"""The training loop: its laws, whatever it is used for."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from harden.errors import Inconclusive
from harden.network import Classifier, close, units
from harden.repair.augment import CropAndFlip
from harden.repair.losses import accuracy, as_logits, clean_loss, cross_entropy
from harden.repair.train import Schedule, _batches, _optimizer, _steps, fit
from harden.types import Images, Run, Splits
from tests.planted import GUILTY, Planted

QUICK = Schedule(epochs=3, batch=16, rate=0.01)


def spoiled(planted: Planted) -> Classifier:
    model = planted.model
    torch.nn.init.zeros_(planted.module.fc.weight)
    return model


def test_relearns_a_lost_last_layer(planted: Planted, planted_splits: Splits) -> None:
    model = spoiled(planted)
    assert accuracy(model, planted_splits.verify).value < 0.5
    fit(model, planted_splits.tune, cross_entropy, replace(QUICK, epochs=15, freeze_norm=True), Run())
    assert accuracy(model, planted_splits.verify).value == 1.0
    assert not model.training


def test_same_seed_same_weights_and_the_global_generator_untouched(planted: Planted, planted_splits: Splits) -> None:
    before = torch.random.get_rng_state()
    weights = []
    for seed in (1, 1, 2):
        model = Classifier(nn.Sequential(planted.module), planted.contract).copy()
        fit(model, planted_splits.tune, cross_entropy, QUICK, Run(seed=seed), augment=CropAndFlip(2, flip=True))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("frozen", [True, False])
def test_norm_statistics_move_only_when_not_frozen(planted: Planted, planted_splits: Splits, frozen: bool) -> None:
    before = planted.module.bn1.running_mean
    assert before is not None
    before = before.clone()
    fit(planted.model, planted_splits.tune, cross_entropy, replace(QUICK, freeze_norm=frozen), Run())
    assert torch.equal(before, planted.module.bn1.running_mean) is frozen  # type: ignore[arg-type]


@pytest.mark.parametrize("drop", [True, False])
def test_activations_are_left_out_by_chance_only_where_asked_for(
    planted: Planted, planted_splits: Splits, drop: bool
) -> None:
    dropout = nn.Dropout(0.5)
    model = Classifier(nn.Sequential(planted.module, dropout), planted.contract)
    seen: list[bool] = []
    dropout.register_forward_hook(lambda layer, _, out: seen.append(bool(layer.training and (out == 0).any())))
    fit(model, planted_splits.tune, cross_entropy, replace(QUICK, drop=drop, freeze_norm=True), Run())
    assert seen
    assert any(seen) is drop


def test_what_is_left_out_by_chance_says_nothing_about_norm(planted: Planted, planted_splits: Splits) -> None:
    before = planted.module.bn1.running_mean
    assert before is not None
    before = before.clone()
    fit(planted.model, planted_splits.tune, cross_entropy, replace(QUICK, drop=False), Run())
    assert not torch.equal(before, planted.module.bn1.running_mean)  # type: ignore[arg-type]


@pytest.mark.parametrize(("shape", "last"), [("cosine", 0.0), ("constant", 0.1)])
def test_the_rate_of_a_cosine_ends_at_nothing(shape: Literal["cosine", "constant"], last: float) -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimizer, falling = _optimizer([weight], Schedule(epochs=5, rate=0.1, shape=shape), 30)
    for _ in range(15):
        optimizer.step()
        falling.step()
    assert falling.get_last_lr()[0] == pytest.approx((last + 0.1) / 2)
    for _ in range(15):
        optimizer.step()
        falling.step()
    assert falling.get_last_lr()[0] == pytest.approx(last, abs=1e-6)


def test_keeps_the_best_snapshot_not_the_last(planted: Planted, planted_splits: Splits) -> None:
    model = planted.model
    wild = replace(QUICK, rate=0.5, epochs=4)

    def ascent(model: Classifier, batch: Images) -> Tensor:
        return -cross_entropy(model, batch).clamp(max=5)

    record = fit(
        model, planted_splits.tune, ascent, wild, Run(), validate=lambda m: -clean_loss(m, planted_splits.choose)
    )
    assert record["kept_epoch"] == 0
    assert accuracy(model, planted_splits.choose).value == 1.0


def test_nan_ends_it_and_brings_back_whole_weights(planted: Planted, planted_splits: Splits) -> None:
    calls = 0

    def loss(model: Classifier, batch: Images) -> Tensor:
        nonlocal calls
        calls += 1
        return cross_entropy(model, batch) * (math.nan if calls > 6 else 1.0)

    record = fit(planted.model, planted_splits.tune, loss, QUICK, Run())
    assert "not finite" in record["stopped_because"]
    assert record["kept_epoch"] == 1
    assert all(bool(torch.isfinite(p).all()) for p in planted.module.parameters())


def test_stops_at_the_deadline(planted: Planted, planted_splits: Splits) -> None:
    record = fit(planted.model, planted_splits.tune, cross_entropy, QUICK, Run(deadline=time.monotonic() - 1))
    assert record["stopped_because"] == "time budget spent"
    assert record["epochs"] == 0


def test_closed_filters_stay_closed(planted: Planted, planted_splits: Splits) -> None:
    model = planted.model
    close(units(model), [GUILTY])
    fit(model, planted_splits.tune, cross_entropy, QUICK, Run())
    assert not any(bool(p[GUILTY.index].any()) for p in units(model)[GUILTY.layer].parameters())


def test_only_the_named_parameters_move(planted: Planted, planted_splits: Splits) -> None:
    before = planted.module.conv1.weight.detach().clone()
    head = planted.module.fc
    fit(planted.model, planted_splits.tune, cross_entropy, QUICK, Run(), parameters=list(head.parameters()))
    assert torch.equal(before, planted.module.conv1.weight)
    assert all(p.requires_grad and p.grad is None for p in planted.module.parameters())


def test_refuses_without_images(planted: Planted, planted_splits: Splits) -> None:
    nothing = planted_splits.tune.take(torch.arange(0))
    with pytest.raises(Inconclusive, match="there are none"):
        fit(planted.model, nothing, cross_entropy, QUICK, Run())


@pytest.mark.parametrize(("total", "batch"), [(1, 4), (4, 4), (5, 4), (6, 4), (9, 4), (3, 1)])
def test_every_image_once_an_epoch_and_never_a_batch_of_one(total: int, batch: int) -> None:
    parts = list(_batches(total, batch, torch.Generator().manual_seed(0)))
    assert sorted(torch.cat(parts).tolist()) == list(range(total))
    assert len(parts) == _steps(total, batch)
    assert batch == 1 or total == 1 or min(len(p) for p in parts) > 1


def test_softmax_outputs_are_read_as_their_logarithm() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(as_logits(logits), logits)
    again = as_logits(logits.softmax(1)).softmax(1)
    assert torch.allclose(again, logits.softmax(1), atol=1e-6)  # float32 rounding of one exp and one log


def test_augmentation_keeps_shape_and_flips_only_when_asked() -> None:
    pixels = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(0)
    assert torch.equal(CropAndFlip(padding=0)(pixels, g), pixels)
    moved = CropAndFlip(padding=2)(pixels, g)
    assert moved.shape == pixels.shape
    assert not torch.equal(moved, pixels)
    flipped = CropAndFlip(padding=0, flip=True)(pixels, g)
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(2)) for a, b in zip(flipped, pixels, strict=True))
    assert not torch.equal(flipped, pixels)


@pytest.mark.parametrize(
    ("images", "least", "most", "epochs"),
    [(640, 0, None, 16), (64, 100, 320, 100), (1280, 100, 320, 16), (5000, 100, 320, 5)],
)
def test_few_images_make_more_epochs_and_many_fewer(images: int, least: int, most: int | None, epochs: int) -> None:
    schedule = Schedule(epochs=16, batch=64, least_steps=least, most_steps=most)
    assert schedule.epochs_of(images) == epochs
    assert 2 * epochs - 1 <= schedule.times(2).epochs_of(images) <= 2 * epochs, "in whole epochs"
