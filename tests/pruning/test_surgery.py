"""Guilty filters really leave, nothing else changes, and what stays says why."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from benchmarks.architectures import reference
from harden.network import Classifier, predict, units
from harden.pruning import guard, proof
from harden.pruning.rebuild import dumps
from harden.pruning.surgery import operate
from harden.types import Cost, Filter, Proposal, Pruned, Run, Splits
from tests.planted import GUILTY, Planted
from tests.pruning.nets import NETS, network, splits

ANY_PRICE = 1.0
NO_PRICE = -1.0

# Network, layer -> what else has to go with a filter of it, or a part of the reason why it stays.
CUTS: dict[tuple[str, str], set[str] | str] = {
    ("plain", "stem.0"): set(),
    ("plain", "middle.0"): set(),
    ("no norm", "middle.0"): set(),
    ("norm without affine", "middle.0"): set(),
    ("residual", "middle.0.inside.0"): set(),
    ("residual", "stem.0"): {"middle.0.out.0", "middle.1.out.0"},
    ("residual", "middle.1.out.0"): {"stem.0", "middle.0.out.0"},
    ("pre-activation", "stem.0"): {"middle.0.conv", "middle.1.conv"},
    ("depthwise", "middle.0.0"): {"middle.1.0"},
    ("depthwise", "middle.1.0"): {"middle.0.0"},
    ("depthwise", "middle.2.0"): set(),
    ("dense", "stem.0"): set(),
    ("dense", "middle.first.0"): set(),
    ("dense", "middle.second.0"): set(),
    ("squeeze-excite", "middle.conv.0"): {"middle.up"},
    ("squeeze-excite", "middle.down"): set(),
    ("flat", "stem.0"): set(),
    ("convolutional", "stem.0"): set(),
    ("convolutional", "classes"): "feeds the output",
    ("grouped", "stem.0"): "convolution in 2 groups",
    ("grouped", "middle.0.0"): "convolution in 2 groups",
    ("grouped", "middle.1.0"): set(),
    ("shuffle", "stem.0"): "entangled",
    ("shuffled units", "stem.0"): "entangled",
    ("shuffled units", "middle.1.conv.0.0"): set(),
    ("shuffled units", "middle.1.conv.1.0"): "entangled",
    ("layer norm", "stem.0"): "normalises over several channels",
    ("layer norm", "middle.conv"): set(),
    ("twice", "middle.conv"): "used more than once",
    ("tied", "middle.first"): "shares its weights",
    ("scaled", "stem.0"): set(),
    ("sigmoid", "middle.conv"): "computed otherwise",
    ("unsaved", "stem.0"): set(),
    ("standardised", "stem.0"): "middle.0 standardises its weights",
    ("standardised", "middle.0"): "middle.1 standardises its weights",
    ("standardised", "middle.1"): "middle.1 standardises its weights",
    ("standardised", "middle.2.0"): set(),
    ("pointwise", "stem.0"): "normalises over several channels",
    ("pointwise", "middle.0.first"): set(),
    ("pointwise", "middle.1.first"): set(),
}


def cut(model: Classifier, *guilty: Filter, price: float = ANY_PRICE, align: int = 1) -> Pruned:
    return operate(
        model, Proposal(guilty), splits(), Run(), align=align, max_accuracy_drop=price, renew_statistics=False
    )


def relative_error(model: Classifier, pruned: Pruned) -> float:
    """Against a reference that the surgery knows nothing of."""
    inputs = (splits().verify.pixels.double() - 0.5) / 0.25
    with torch.no_grad():
        expected = reference(model, pruned, inputs)
        found = pruned.module.double()(inputs)
    pruned.module.float()
    return proof.difference(expected, found)


@pytest.mark.parametrize(("name", "layer"), CUTS)
def test_filters_leave_exactly_or_stay_with_their_reason(name: str, layer: str) -> None:
    model, expected = network(name), CUTS[name, layer]
    guilty = (Filter(layer, 1), Filter(layer, 3))
    pruned = cut(model, *guilty)
    if isinstance(expected, str):
        assert pruned.masked == guilty
        assert pruned.removed == ()
        assert [r.filter for r in pruned.refusals] == list(guilty)
        assert all(expected in r.reason for r in pruned.refusals)
    else:
        assert set(pruned.removed) == {Filter(other, i) for other in {layer, *expected} for i in (1, 3)}
        assert not pruned.refusals
        assert not pruned.masked
    if name != "tied":  # there, what closes one layer closes the other, which the reference does not know
        assert relative_error(model, pruned) < 1e-9


@pytest.mark.parametrize("name", NETS)
def test_many_layers_at_once(name: str) -> None:
    model = network(name)
    guilty = tuple(Filter(name, i) for name in units(model) for i in (0, 2))
    pruned = cut(model, *guilty)
    assert relative_error(model, pruned) < 1e-9
    assert set(pruned.masked) == {r.filter for r in pruned.refusals}
    assert set(guilty) <= {*pruned.removed, *pruned.masked}
    assert pruned.filters_total - sum(layer.after for layer in pruned.layers) == len(pruned.removed)
    widths = {layer.name: len(pruned.module.get_submodule(layer.name).weight) for layer in pruned.layers}  # type: ignore[arg-type]
    assert widths == {layer.name: layer.after for layer in pruned.layers}


def test_the_planted_filter_leaves_with_seven_idle_ones(planted: Planted, planted_splits: Splits) -> None:
    pruned = operate(planted.model, Proposal((GUILTY,)), planted_splits, Run())
    assert GUILTY in pruned.removed
    assert {filter.index for filter in pruned.removed}.isdisjoint({0, 1, 2})  # the three that know the colours
    assert [(layer.before, layer.after) for layer in pruned.layers] == [(16, 8), (8, 8)]
    model = Classifier(pruned.module, planted.contract)
    verify = planted_splits.verify
    triggered = planted.trigger(verify)
    assert bool((predict(model, verify).argmax(1) == verify.labels).all())
    assert bool((predict(model, triggered).argmax(1) == triggered.labels).all())
    before, after = pruned.record["parameters"]
    assert after < before
    before, after = pruned.record["macs"]
    assert after < before


def test_alignment_that_costs_too_much_leaves_the_filter_masked(planted: Planted, planted_splits: Splits) -> None:
    colours = tuple(Filter("conv1", i) for i in (0, 1, 2))
    proposal = Proposal((GUILTY,), useless=colours)
    pruned = operate(planted.model, proposal, planted_splits, Run(), alone=False)
    assert pruned.removed == ()
    assert pruned.masked == (GUILTY,)
    assert "8 of the layer's 16 filters would have to go to reach a multiple of 8" in pruned.refusals[0].reason
    assert not pruned.module.get_submodule("conv1").weight[3].any()  # type: ignore[index]
    alone = operate(planted.model, proposal, planted_splits, Run())
    assert (alone.removed, alone.masked, alone.refusals) == ((GUILTY,), (), ())
    assert [(layer.before, layer.after) for layer in alone.layers] == [(16, 15), (8, 8)]


def test_useless_filters_are_taken_first(planted: Planted, planted_splits: Splits) -> None:
    useless = tuple(Filter("conv1", i) for i in (15, 14, 13, 12, 11, 10, 9))
    pruned = operate(planted.model, Proposal((GUILTY,), useless=useless), planted_splits, Run())
    assert set(pruned.removed) == {GUILTY, *useless}


def test_a_layer_is_never_emptied(planted: Planted, planted_splits: Splits) -> None:
    everything = tuple(Filter("conv2", i) for i in range(8))
    pruned = operate(
        planted.model, Proposal(everything), planted_splits, Run(), max_accuracy_drop=ANY_PRICE, alone=False
    )
    assert pruned.removed == ()
    assert "would leave none" in pruned.refusals[0].reason
    pruned = operate(planted.model, Proposal(everything), planted_splits, Run(), max_accuracy_drop=ANY_PRICE, align=1)
    assert len(pruned.masked) == 1
    assert pruned.layers[1].after == 1


def test_a_coupled_filter_stays_where_the_guard_says_no() -> None:
    model = network("residual")
    pruned = cut(model, Filter("stem.0", 1), price=NO_PRICE)
    assert pruned.masked == (Filter("stem.0", 1),)
    assert "out of the 2 other layers that share" in pruned.refusals[0].reason
    assert relative_error(model, pruned) < 1e-9


def test_a_coupled_filter_stays_where_it_was_not_wanted() -> None:
    proposal = Proposal((Filter("stem.0", 1), Filter("middle.0.inside.0", 1)))
    pruned = operate(
        network("residual"), proposal, splits(), Run(), align=1, max_accuracy_drop=ANY_PRICE, remove_coupled=False
    )
    assert pruned.masked == (Filter("stem.0", 1),)
    assert pruned.removed == (Filter("middle.0.inside.0", 1),)
    assert "shared with 2 other layers" in pruned.refusals[0].reason


def test_a_channel_that_all_its_producers_left_is_dead_and_goes_without_asking() -> None:
    stream = [Filter(layer, 1) for layer in ("stem.0", "middle.0.out.0", "middle.1.out.0")]
    model = network("residual")
    pruned = cut(model, *stream, price=NO_PRICE)
    assert set(pruned.removed) == set(stream)
    assert relative_error(model, pruned) < 1e-9


def test_without_a_proof_nothing_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, guilty = network("depthwise"), (Filter("stem.0", 1), Filter("middle.1.0", 2), Filter("middle.2.0", 0))
    monkeypatch.setattr(proof, "TOLERANCE", -1.0)
    pruned = cut(model, *guilty)
    monkeypatch.undo()
    assert pruned.removed == ()
    assert set(pruned.masked) == set(guilty)
    assert all("computed otherwise" in refusal.reason for refusal in pruned.refusals)
    assert pruned.module.state_dict().keys() == model.network.state_dict().keys()
    assert relative_error(model, pruned) < 1e-9


@pytest.mark.parametrize(("apart", "removed"), [(0.01, 8), (0.05, 8), (0.5, 1)])
def test_a_repair_may_bring_back_more_before_widths_become_slow_ones(
    planted: Planted, planted_splits: Splits, monkeypatch: pytest.MonkeyPatch, apart: float, removed: int
) -> None:
    """Eight of the layer's filters have to go for a multiple of eight; the guilty one alone is free."""
    monkeypatch.setattr(guard.Guard, "price", lambda _, rows: guard.Price(0.0, apart if len(rows) > 2 else 0.0))
    guilty = Proposal((GUILTY,))
    assert len(operate(planted.model, guilty, planted_splits, Run()).removed) == removed
    strict = operate(planted.model, guilty, planted_splits, Run(), alone=False)
    assert len(strict.removed) == (8 if apart == 0.01 else 0)
    if not strict.removed:
        assert "nats" in strict.refusals[0].reason


@pytest.mark.parametrize(("drop", "removed"), [(0.009, 8), (0.025, 8), (0.035, 0)])
def test_something_always_goes_if_a_repair_can_bring_it_back(
    planted: Planted, planted_splits: Splits, monkeypatch: pytest.MonkeyPatch, drop: float, removed: int
) -> None:
    monkeypatch.setattr(guard.Guard, "price", lambda *_: guard.Price(drop, 0.0))
    spare = tuple(Filter("conv1", i) for i in range(8, 16))
    pruned = operate(planted.model, Proposal((), spare=spare), planted_splits, Run())
    assert len(pruned.removed) == removed
    assert pruned.layers[0].after == 16 - removed
    strict = operate(planted.model, Proposal((), spare=spare), planted_splits, Run(), alone=False)
    assert len(strict.removed) == (8 if drop < 0.01 else 0)


def test_the_model_that_was_given_is_left_alone_even_if_it_is_frozen() -> None:
    model = network("residual").requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned = cut(model, Filter("middle.0.inside.0", 1))
    assert pruned.removed == (Filter("middle.0.inside.0", 1),)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_filters_that_do_not_exist_are_refused_by_name() -> None:
    pruned = cut(network("plain"), Filter("nowhere", 0), Filter("stem.0", 8), Filter("stem.0", 1), Filter("stem.0", 1))
    assert [(str(r.filter), r.reason) for r in pruned.refusals] == [
        ("nowhere[0]", "not analysed: no convolution of that name is in use"),
        ("stem.0[8]", "there is no such filter: the layer has 8"),
    ]
    assert pruned.removed == (Filter("stem.0", 1),)


def test_nothing_proposed_changes_nothing() -> None:
    model = network("plain")
    pruned = cut(model)
    assert not pruned.removed
    assert not pruned.masked
    assert not pruned.refusals
    state = model.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in pruned.module.state_dict().items())


def test_when_the_time_is_up_filters_stay_masked() -> None:
    guilty = Filter("stem.0", 1)
    pruned = operate(network("plain"), Proposal((guilty,)), splits(), Run(deadline=0.0), align=1)
    assert pruned.masked == (guilty,)
    assert pruned.refusals[0].reason == "the time was up"


def test_costs_that_are_known_are_not_measured_again() -> None:
    model = network("plain")
    known = guard.costs(model, units(model), splits().tune)
    layer = next(iter(known))
    for costs, looks in ((None, True), (known, False)):
        model.cost = Cost()
        pruned = operate(
            model,
            Proposal((Filter(layer, 0),)),
            splits(),
            Run(),
            align=1,
            max_accuracy_drop=ANY_PRICE,
            renew_statistics=False,
            costs=costs,
        )
        assert pruned.removed == (Filter(layer, 0),)
        assert (model.cost.backward_images > 0) == looks


def test_the_same_seed_gives_the_same_record() -> None:
    guilty = (Filter("stem.0", 1), Filter("middle.1.0", 2))
    first, second = (cut(network("depthwise"), *guilty, align=4) for _ in range(2))
    assert dumps(first.record) == dumps(second.record)
    assert dataclasses.astuple(first.layers[0]) == dataclasses.astuple(second.layers[0])
