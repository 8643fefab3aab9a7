"""What a cut changes is seen on pictures that have no labels."""

from __future__ import annotations

import pytest
import torch

from harden.network import close, predict, units
from harden.pruning.gated import GateSearch
from harden.pruning.likeness import Likeness
from harden.pruning.spare import Spare
from harden.types import Filter, Run, Splits
from tests.planted import GUILTY, TARGET, Planted
from tests.pruning.nets import network, splits

NEEDED = Filter("conv1", 2)
LEAK = 1.55  # added to the guilty filter's bias: it begins to speak of clean pictures


def test_by_the_formula(planted: Planted, planted_splits: Splits) -> None:
    seen = Likeness(planted.model, planted_splits.tune, seed=3)
    assert seen.apart(planted.model) == pytest.approx(0, abs=1e-6)
    other = planted.model.copy()
    close(units(other), [NEEDED])
    before, now = (predict(m, seen.pixels).log_softmax(1) for m in (planted.model, other))
    expected = float((before.exp() * (before - now)).sum(1).mean())
    assert expected > 0.01
    assert seen.apart(other) == pytest.approx(expected, rel=1e-4)


def test_the_pictures_are_mixtures_and_the_same_for_the_same_seed(planted: Planted, planted_splits: Splits) -> None:
    first, again, other = (Likeness(planted.model, planted_splits.tune, seed).pixels for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first) == 256, "more than there are images"
    same = (first[:, None] == planted_splits.tune.pixels[None]).flatten(2).all(2)
    assert float(same.any(1).float().mean()) < 0.1


def test_no_cut_that_moves_what_is_said_further_than_is_allowed(planted: Planted, planted_splits: Splits) -> None:
    moved = units(closing := planted.model.copy())
    close(moved, [GUILTY])
    apart = Likeness(planted.model, planted_splits.tune, seed=0).apart(closing)
    for allowed, guilty in ((apart * 1.01 + 1e-6, (GUILTY,)), (apart * 0.99 - 1e-6, ())):
        assert GateSearch(apart=allowed)(planted.model, planted_splits, planted.evidence, Run()).guilty == guilty


def test_spare_groups_go_as_long_as_the_same_is_said_and_one_goes_alone_where_none_does() -> None:
    def found(apart: float) -> set[str]:
        chosen = Spare(1e6, 0.5, align=4, first=1e6, apart=apart)(network("plain"), splits(), (), Run())
        return {f.layer for f in chosen}

    assert len(found(1e6)) == 3
    assert len(found(-1.0)) == 1


def test_that_a_backdoor_speaks_of_clean_pictures_no_more_is_not_held_against_a_cut(
    planted: Planted, planted_splits: Splits
) -> None:
    leaky = planted.model.copy()
    with torch.no_grad():
        leaky.network.get_submodule("bn1").bias[GUILTY.index] += LEAK  # type: ignore[operator, index]
    images = planted_splits.tune
    others = images.take((images.labels != TARGET).nonzero().flatten())
    assert 0.1 < float(predict(leaky, others).softmax(1)[:, TARGET].mean()) < 0.9
    moved = Likeness(leaky, images, seed=0).apart(planted.model)
    assert moved > 0.1
    for doubt, guilty in ((True, (GUILTY,)), (False, ())):
        search = GateSearch(apart=moved / 2, max_accuracy_drop=1.0, doubt=doubt, spare=None)
        assert search(leaky.copy(), planted_splits, planted.evidence, Run()).guilty == guilty
