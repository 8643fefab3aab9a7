"""The default method as a whole, on the planted filter: no trigger is given, and none is left."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harden.methods import METHODS
from harden.methods.auto import auto
from harden.network import Classifier, predict
from harden.pruning.gated import GateSearch
from harden.pruning.surgery import operate
from harden.repair.immunise import Immunise
from harden.repair.train import Schedule
from harden.triggers.families import Patch
from harden.triggers.smallest import SmallestChange
from harden.triggers.verdict import Verdict
from harden.types import Method, Proposal, Run, Splits
from tests.planted import GUILTY, TARGET, reachable, splits, stamp


def quick() -> Method:
    """The default, with one family of changes and fewer steps."""
    method = auto()
    assert isinstance(method.recover, SmallestChange)
    assert isinstance(method.repair, Immunise)
    schedule = dataclasses.replace(method.repair.schedule, epochs=3, least_steps=0, batch=20)
    return dataclasses.replace(
        method,
        recover=dataclasses.replace(method.recover, families=(Patch(),), look=15),
        repair=dataclasses.replace(method.repair, schedule=schedule, every=2),
    )


def accuracy(model: Classifier, splits: Splits) -> float:
    return float((predict(model, splits.verify).argmax(1) == splits.verify.labels).float().mean())


def attack_success(model: Classifier, splits: Splits) -> float:
    images = splits.verify
    said = predict(model, stamp(images.pixels)).argmax(1)
    return float((said[images.labels != TARGET] == TARGET).float().mean())


def test_it_is_registered_and_made_of_three_stages() -> None:
    method = METHODS["auto"]()
    assert (method.name, method.baseline) == ("auto", False)
    assert isinstance(method.recover, SmallestChange)
    assert isinstance(method.prune, GateSearch)
    assert isinstance(method.repair, Immunise)
    assert isinstance(method.repair.schedule, Schedule)


def test_the_backdoor_is_found_cut_out_and_forgotten(planted_splits: Splits) -> None:
    method, suspect = quick(), reachable().model
    assert method.prune is not None
    assert method.repair is not None
    assert (accuracy(suspect, planted_splits), attack_success(suspect, planted_splits)) == (1.0, 1.0)

    evidence = method.recover(suspect, planted_splits, Run())
    assert (evidence.status, evidence.target_classes) == ("backdoored", (TARGET,))

    proposal = method.prune(suspect, planted_splits, evidence, Run())
    assert proposal.guilty == (GUILTY,)
    pruned = operate(suspect, proposal, planted_splits, Run(), align=1)
    assert pruned.removed == (GUILTY,)

    healed = Classifier(pruned.module, suspect.contract)
    notes = method.repair(healed, suspect, planted_splits, evidence, Run())
    assert notes["stand_ins"] > len(evidence.triggers)
    assert (accuracy(healed, planted_splits), attack_success(healed, planted_splits)) == (1.0, 0.0)


@pytest.mark.parametrize("status", ["clean", "inconclusive"])
def test_a_model_without_a_backdoor_stays_as_it_is(planted_splits: Splits, status: str) -> None:
    method, suspect = auto(), reachable()
    assert method.prune is not None
    assert method.repair is not None
    evidence = dataclasses.replace(suspect.evidence, status=status)  # type: ignore[arg-type]
    assert method.prune(suspect.model, planted_splits, evidence, Run()) == Proposal(
        (), stopped_because="no backdoor was found, so there is nothing to remove"
    )
    model = suspect.model.copy()
    method.repair(model, suspect.model, planted_splits, evidence, Run())
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), suspect.module.parameters(), strict=True))


def test_what_is_only_nearly_strange_is_found_by_the_filter_that_serves_it() -> None:
    planted, images = reachable(), splits()
    doubtful = quick().recover
    assert isinstance(doubtful, SmallestChange)
    deaf = dataclasses.replace(doubtful, verdict=Verdict(strange=1000.0), listener=None)
    found = deaf(planted.model.copy(), images, Run())
    assert (found.status, found.target_classes) == ("backdoored", (TARGET,))
    assert "filters closed, 0% of the images still follow to red (patch)" in found.why
    assert found.triggers


def test_what_is_only_nearly_strange_is_found_by_how_loud_it_is() -> None:
    planted, images = reachable(), splits()
    doubtful = quick().recover
    assert isinstance(doubtful, SmallestChange)
    found = dataclasses.replace(doubtful, verdict=Verdict(strange=1000.0), second=None)(
        planted.model.copy(), images, Run()
    )
    assert (found.status, found.target_classes) == ("backdoored", (TARGET,))
    assert "margin points at red" in found.why
    assert found.triggers
