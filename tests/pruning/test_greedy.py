"""The search against the naive procedure, and each reason to stop."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from harden.network import Classifier, close, predict, units
from harden.pruning.greedy import Greedy, Scorer, highest, openings
from harden.scoring.gate import Gate
from harden.scoring.gradient import UnlearningGradient
from harden.types import Contract, Evidence, Filter, Proposal, Run, Splits
from tests.planted import GUILTY, Planted, pictures, true_trigger
from tests.pruning.nets import Pointwise, network


def search(planted: Planted, splits: Splits, run: Run | None = None, **settings: object) -> Proposal:
    greedy = Greedy(**settings)  # type: ignore[arg-type]
    return greedy(planted.model, splits, planted.evidence, run or Run())


def test_finds_the_guilty_filter_and_nothing_else(planted: Planted, planted_splits: Splits) -> None:
    found = search(planted, planted_splits, max_rounds=1)
    assert found.guilty == (GUILTY,)
    start, only = found.rounds
    assert (start.number, start.closed) == (0, ())
    assert start.attack_success is not None
    assert (start.accuracy.value, start.attack_success.value) == (1.0, 1.0)
    assert only.accuracy.value == 1.0
    assert only.attack_success is not None
    assert only.attack_success.value == 0.0
    assert only.unlearning_loss < 0.1
    assert found.stopped_because == "1 rounds done"


def test_rolls_back_to_the_lowest_unlearning_loss(planted: Planted, planted_splits: Splits) -> None:
    found = search(planted, planted_splits)
    assert found.guilty[0] == GUILTY
    losses = [r.unlearning_loss for r in found.rounds]
    assert len(found.guilty) == losses.index(min(losses))
    assert len(found.rounds) > len(found.guilty) + 1
    closed = [f for r in found.rounds for f in r.closed]
    assert len(set(closed)) == len(closed), "a filter was chosen twice"


@pytest.mark.parametrize("scorer", [UnlearningGradient(), Gate()], ids=["gradient", "gate"])
def test_the_model_is_not_touched(planted: Planted, planted_splits: Splits, scorer: Scorer) -> None:
    before = {k: v.clone() for k, v in planted.module.state_dict().items()}
    found = search(planted, planted_splits, scorer=scorer)
    assert found.guilty[0] == GUILTY
    assert all(torch.equal(v, before[k]) for k, v in planted.module.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in planted.module.parameters())


def test_same_filters_as_the_naive_procedure(planted: Planted, planted_splits: Splits) -> None:
    found = search(planted, planted_splits, patience=6)
    model = planted.model
    alive = {n: torch.ones(u.width, dtype=torch.bool) for n, u in units(model).items()}
    attacked = planted.trigger(planted_splits.tune)
    for expected in found.rounds[1:]:
        model.zero_grad()
        cross_entropy(model(attacked.pixels), attacked.labels).backward()
        scores = {n: p.abs().mean((1, 2, 3)) for n, u in units(model).items() if (p := u.conv.weight.grad) is not None}
        best = highest(scores, alive)
        assert best is not None
        assert expected.closed == (best[0],)
        assert expected.score == pytest.approx(best[1], rel=1e-3)
        model = model.copy()
        close(units(model), [best[0]])
        alive[best[0].layer][best[0].index] = False
        right = (predict(model, planted_splits.choose).argmax(1) == planted_splits.choose.labels).sum()
        assert expected.accuracy.hits == int(right)


def test_stops_when_accuracy_falls_and_does_not_keep_that_round(planted: Planted, planted_splits: Splits) -> None:
    found = search(planted, planted_splits, max_accuracy_drop=0.05, patience=100)
    assert "accuracy fell from 100.0 %" in found.stopped_because
    assert len(found.guilty) < len(found.rounds) - 1
    kept = found.rounds[len(found.guilty)]
    assert kept.accuracy.hits > 0.95 * kept.accuracy.total


def test_stops_at_the_patience(planted: Planted, planted_splits: Splits) -> None:
    found = search(planted, planted_splits, patience=2, max_accuracy_drop=1.0)
    assert found.stopped_because == "no lower unlearning loss for 2 rounds"
    assert len(found.rounds) == 1 + len(found.guilty) + 2


def test_stops_at_the_deadline_with_what_it_has(planted: Planted, planted_splits: Splits) -> None:
    found = search(planted, planted_splits, Run(deadline=time.monotonic() - 1))
    assert found.guilty == ()
    assert found.stopped_because == "the time budget is spent"


def test_closes_nothing_without_a_backdoor(planted: Planted, planted_splits: Splits) -> None:
    for status in ("clean", "inconclusive"):
        evidence = replace(planted.evidence, status=status)  # type: ignore[arg-type]
        assert Greedy()(planted.model, planted_splits, evidence, Run()).guilty == ()
    evidence = Evidence("backdoored", (0,), (), ())
    assert "nothing to unlearn" in Greedy()(planted.model, planted_splits, evidence, Run()).stopped_because


def test_says_so_when_the_trigger_fits_no_image(planted: Planted, planted_splits: Splits) -> None:
    nowhere = replace(planted.trigger, apply=lambda images: images.take(torch.arange(0)))
    found = Greedy()(planted.model, planted_splits, replace(planted.evidence, triggers=(nowhere,)), Run())
    assert found.guilty == ()
    assert "none of the images" in found.stopped_because


def test_the_last_open_filter_of_a_layer_stays() -> None:
    scores = {"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([1.0, 2.0])}
    alive = {"a": torch.tensor([False, True]), "b": torch.tensor([True, True])}
    assert highest(scores, alive) == (Filter("b", 1), 2.0)
    assert highest(scores, {"a": alive["a"], "b": torch.tensor([False, False])}) is None


def test_filters_that_are_closed_already_are_not_chosen(planted: Planted, planted_splits: Splits) -> None:
    close(units(planted.model), [GUILTY])
    found = search(planted, planted_splits, max_rounds=3)
    assert GUILTY not in [f for r in found.rounds for f in r.closed]


def test_a_convolution_that_makes_the_logits_is_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = Classifier(network, Contract(3, ("a", "b", "c"), (3, 16, 16), (0.5,) * 3, (0.5,) * 3)).eval()
    images = pictures(5)
    evidence = Evidence("backdoored", (0,), (), (true_trigger(),))
    greedy = Greedy(max_accuracy_drop=1.0, patience=9)
    found = greedy(model, Splits(images, images, images), evidence, Run())
    assert {f.layer for r in found.rounds for f in r.closed} == {"0"}
    assert len(found.rounds) == 4
    assert found.stopped_because == "no open filter has a score"


@pytest.mark.parametrize("inside", [nn.Identity(), Pointwise()], ids=["nothing", "linear layers"])
def test_logits_that_a_convolution_makes_stay_whatever_is_inside(inside: nn.Module) -> None:
    model = network("convolutional")
    model.network.stem.append(inside)  # type: ignore[union-attr, operator]
    alive = openings(model, units(model))
    assert not alive["classes"].any()
    assert alive["stem.0"].all()
