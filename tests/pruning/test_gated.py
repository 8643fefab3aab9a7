"""The checked gate search closes the planted filter, only that one, and only where there is a backdoor."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch

from harden.network import Classifier, Unit
from harden.pruning.gated import GateSearch, top
from harden.scoring.gate import Gate
from harden.scoring.gradient import Scores
from harden.triggers.again import Again
from harden.triggers.families import Patch
from harden.triggers.inversion import ToClass
from harden.triggers.put import as_trigger
from harden.types import Evidence, Filter, Images, Run, Splits
from tests.planted import GUILTY, TARGET, Planted, reachable

IDLE = Filter("conv1", 9)


@dataclass(frozen=True)
class Misled(Gate):
    """Prefers an idle filter; the guilty one comes next."""

    def __call__(self, model: Classifier, parts: Mapping[str, Unit], clean: Images, triggered: Images) -> Scores:
        del model, clean, triggered
        scores = {name: torch.zeros(unit.width) for name, unit in parts.items()}
        scores[IDLE.layer][IDLE.index] = 2
        scores[GUILTY.layer][GUILTY.index] = 1
        return scores


def test_closes_the_planted_filter_and_nothing_else(planted: Planted, planted_splits: Splits) -> None:
    before = {k: v.clone() for k, v in planted.module.state_dict().items()}
    found = GateSearch()(planted.model, planted_splits, planted.evidence, Run())
    assert found.guilty == (GUILTY,)
    assert found.stopped_because == "no cut wins 5% of the loss and keeps the accuracy"
    start, only = found.rounds
    assert (start.number, start.closed) == (0, ())
    assert start.attack_success is not None
    assert (start.accuracy.value, start.attack_success.value) == (1.0, 1.0)
    assert only.accuracy.value == 1.0
    assert only.attack_success is not None
    assert only.attack_success.value == 0.0
    assert all(torch.equal(v, before[k]) for k, v in planted.module.state_dict().items())


@pytest.mark.parametrize("status", ["clean", "inconclusive", "backdoored"])
def test_nothing_without_a_backdoor_or_without_a_trigger(planted: Planted, planted_splits: Splits, status: str) -> None:
    triggers = () if status == "backdoored" else planted.evidence.triggers
    evidence = Evidence(status, (), (), triggers)  # type: ignore[arg-type]
    found = GateSearch()(planted.model, planted_splits, evidence, Run())
    assert (found.guilty, found.spare, found.rounds) == ((), (), ())
    assert found.stopped_because == "no backdoor was found, so there is nothing to remove"


def test_a_wrong_guess_is_seen_to_gain_nothing(planted: Planted, planted_splits: Splits) -> None:
    both = GateSearch(scorer=Misled())(planted.model, planted_splits, planted.evidence, Run())
    assert both.guilty == (GUILTY,)
    alone = GateSearch(scorer=Misled(), candidates=1)(planted.model, planted_splits, planted.evidence, Run())
    assert alone.guilty == ()


def test_no_cut_that_costs_more_accuracy_than_is_allowed(planted: Planted, planted_splits: Splits) -> None:
    stricter = GateSearch(max_accuracy_drop=-0.01)  # accuracy would have to rise, and it is 100 % already
    found = stricter(planted.model, planted_splits, planted.evidence, Run())
    assert found.guilty == ()


def test_stops_when_the_time_is_up(planted: Planted, planted_splits: Splits) -> None:
    found = GateSearch()(planted.model, planted_splits, planted.evidence, Run(deadline=time.monotonic() - 1))
    assert found.guilty == ()
    assert found.stopped_because == "the time budget is spent"


@pytest.mark.parametrize(("searches", "guilty"), [(1, (GUILTY,)), (0, ())])
def test_what_is_still_easy_is_looked_for(planted_splits: Splits, searches: int, guilty: tuple[Filter, ...]) -> None:
    """The first stand-in does nothing, so that no cut pays until the network is searched again."""
    family, net = Patch(), reachable()
    start = family.start((3, 16, 16), torch.Generator().manual_seed(0), torch.device("cpu"))
    for parameter in start.parameters:
        parameter.requires_grad_(False).fill_(-20)  # covers nothing
    idle = as_trigger(family, ToClass(TARGET), start, {"size": 50.0, "usual": 100.0})
    evidence = Evidence("backdoored", (TARGET,), (), (idle,))
    search = GateSearch(again=Again(families=(family,), steps=60), searches=searches, least=0.9)
    assert search(net.model, planted_splits, evidence, Run()).guilty == guilty


def test_the_last_open_filter_of_a_layer_stays() -> None:
    scores = {"a": torch.tensor([3.0, 9.0]), "b": torch.tensor([1.0, 2.0, 1.0])}
    alive = {"a": torch.tensor([True, False]), "b": torch.tensor([True, True, True])}
    assert top(scores, alive, 2) == [Filter("b", 1), Filter("b", 0)]
