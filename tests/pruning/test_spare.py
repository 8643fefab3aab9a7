"""What clean images do not need goes in whole groups, out of layers that are free, or stays as it was."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from benchmarks.architectures import reference
from harden.network import Classifier, close, units
from harden.pruning import guard, proof
from harden.pruning.spare import Spare
from harden.pruning.surgery import operate
from harden.types import Filter, Proposal, Pruned, Run
from tests.pruning.nets import network, splits

EVERYTHING = 1e6  # times the clean loss
LAYERS = ["stem.0", "middle.0", "middle.3.0"]  # of "plain": 8, 12 and 8 filters


def spare(model: Classifier, *guilty: Filter, most: float = EVERYTHING, layer: float = 0.5) -> tuple[Filter, ...]:
    return Spare(most, layer, align=4, first=0.0, apart=1e6)(model, splits(), guilty, Run())


def cut(model: Classifier, proposal: Proposal, price: float = 1.0) -> Pruned:
    return operate(model, proposal, splits(), Run(), align=4, max_accuracy_drop=price, renew_statistics=False)


def test_whole_groups_and_no_more_of_a_layer_than_is_allowed() -> None:
    found = spare(network("plain"))
    assert Counter(f.layer for f in found) == dict.fromkeys(LAYERS, 4)
    assert len(set(found)) == len(found)
    narrow = spare(network("plain"), layer=0.34)
    assert Counter(f.layer for f in narrow) == {"middle.0": 4}, "a third of 8 filters is no whole group"


def test_the_cheapest_filters_of_a_layer() -> None:
    model, idle = network("plain"), [Filter("middle.0", i) for i in (1, 4, 6, 11)]
    close(units(model), idle)
    assert set(spare(model, most=0.0)) == set(idle)


def test_nothing_that_clean_images_need() -> None:
    assert spare(network("plain"), most=0.0) == ()


def test_the_cheapest_group_goes_if_it_is_not_too_dear() -> None:
    def first(price: float) -> tuple[Filter, ...]:
        return Spare(0.0, 0.5, align=4, first=price)(network("plain"), splits(), (), Run())

    assert first(1e-9) == ()
    (layer,) = {f.layer for f in first(EVERYTHING)}
    assert set(first(EVERYTHING)) == {f for f in spare(network("plain")) if f.layer == layer}


def test_guilty_filters_count_towards_their_group() -> None:
    guilty = Filter("middle.0", 5)
    found = [f for f in spare(network("plain"), guilty) if f.layer == "middle.0"]
    assert len(found) == 3
    assert guilty not in found


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("residual", {"middle.0.inside.0", "middle.1.inside.0"}),  # the stream belongs to several layers
        ("convolutional", {"stem.0"}),  # the last convolution makes the logits
        ("shuffle", {"middle.2.0"}),  # what feeds the shuffle is entangled
    ],
)
def test_only_layers_whose_channels_are_theirs(name: str, layers: set[str]) -> None:
    found = {f.layer for f in spare(network(name))}
    assert found
    assert found <= layers


def test_the_model_is_not_touched() -> None:
    model = network("plain")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    spare(model, Filter("stem.0", 0))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("guilty", [(), (Filter("middle.0", 5),)], ids=["alone", "with a guilty filter"])
def test_surgery_cuts_them(guilty: tuple[Filter, ...]) -> None:
    model = network("plain")
    proposed = spare(model, *guilty)
    pruned = cut(model, Proposal(guilty, spare=proposed))
    assert set(pruned.removed) == {*guilty, *proposed}
    assert (pruned.masked, pruned.refusals) == ((), ())
    assert {w.name: w.after for w in pruned.layers} == {"stem.0": 4, "middle.0": 8, "middle.3.0": 4}
    inputs = (splits().verify.pixels.double() - 0.5) / 0.25
    with torch.no_grad():
        gap = proof.difference(reference(model, pruned, inputs), pruned.module.double()(inputs))
    assert gap < 1e-5  # the weights went through float32


def test_of_a_group_of_groups_as_many_go_as_the_guard_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network("plain")
    monkeypatch.setattr(
        guard.Guard, "price", lambda _, rows: guard.Price(0.5 if len({i for _, i in rows}) > 4 else 0.0, 0.0)
    )
    proposal = Proposal((), spare=tuple(units(model)["middle.0"].filters()[:9]))
    assert Counter(f.layer for f in cut(model, proposal, 0.1).removed) == {"middle.0": 4}


def test_a_layer_is_not_emptied() -> None:
    model = network("plain")
    pruned = cut(model, Proposal((), spare=tuple(units(model)["stem.0"].filters())))
    assert Counter(f.layer for f in pruned.removed) == {"stem.0": 4}


def test_what_cannot_go_stays_open_and_untouched() -> None:
    model = network("plain")
    pruned = cut(model, Proposal((), spare=spare(model)), price=-1.0)
    assert (pruned.removed, pruned.masked, pruned.refusals) == ((), (), ())
    after = pruned.module.state_dict()
    assert all(torch.equal(after[k], v) for k, v in model.network.state_dict().items())


def test_less_than_a_group_stays() -> None:
    model = network("plain")
    pruned = cut(model, Proposal((), spare=(Filter("stem.0", 1), Filter("stem.0", 2), Filter("nowhere", 0))))
    assert (pruned.removed, pruned.masked, pruned.refusals) == ((), (), ())
