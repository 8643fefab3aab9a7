"""What has died in a network leaves it, and nothing else changes; guilty filters leave as far as accuracy holds."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from harden import api
from harden.network import Classifier, close, predict, units
from harden.pruning import dead, record
from harden.pruning.dead import bury
from harden.pruning.rebuild import rebuild
from harden.pruning.surgery import operate
from harden.types import Filter, Proposal, Pruned, Run, Splits
from tests.planted import GUILTY, WIDTH, Planted, PlantedNet, as_received, stamp
from tests.pruning.nets import NETS, network
from tests.pruning.nets import splits as small_pictures

IDLE = tuple(Filter("conv1", i) for i in range(4, 12))


def still(planted: Planted, says: float) -> Planted:
    """The idle filters say the same number whatever they see."""
    with torch.no_grad():
        for _, i in IDLE:
            planted.module.bn1.weight[i], planted.module.bn1.bias[i] = 0, says
        planted.module.conv2.weight[:, 4:12] = 0
        planted.module.conv2.weight[:3, 4:12] = 0.02  # only the classes hear it
    return planted


def of(pruned: Pruned, model: Classifier) -> Classifier:
    return Classifier(pruned.module, model.contract)


@pytest.mark.parametrize("says", [-1.0, 0.0, 0.7], ids=["under the ReLU", "nothing", "a constant"])
def test_what_says_the_same_on_every_picture_leaves_and_nothing_changes(
    planted: Planted, planted_splits: Splits, says: float
) -> None:
    model = still(planted, says).model
    before = predict(model, planted_splits.verify)
    pruned = bury(model, (), planted_splits, Run(), align=1, max_accuracy_drop=0.0)
    assert set(pruned.removed) == {GUILTY, *IDLE}  # the backdoor's filter sleeps on clean pictures
    assert {w.name: w.after for w in pruned.layers} == {"conv1": WIDTH - 9, "conv2": 8}
    assert torch.allclose(predict(of(pruned, model), planted_splits.verify), before, atol=1e-4)
    if says > 0:
        close(units(model), IDLE)
        assert not torch.allclose(predict(model, planted_splits.verify), before, atol=1e-1), (
            "there was something to fold"
        )


def test_the_trigger_of_a_sleeping_filter_is_gone_with_it(planted: Planted, planted_splits: Splits) -> None:
    pruned = bury(planted.model, (), planted_splits, Run())
    said = predict(of(pruned, planted.model), stamp(planted_splits.verify.pixels)).argmax(1)
    assert bool((said == planted_splits.verify.labels).all())
    assert GUILTY in pruned.removed
    assert {w.name: w.after for w in pruned.layers}["conv1"] == 8, "down to an aligned width, as the guard allows"


def test_a_network_without_dead_channels_stays_as_it_is() -> None:
    model = network("plain")
    pruned = bury(model, (), small_pictures(), Run(), align=1, max_accuracy_drop=1.0)
    assert (pruned.removed, pruned.masked) == ((), ())
    assert all(torch.equal(v, model.network.state_dict()[k]) for k, v in pruned.module.state_dict().items())


def moved(name: str) -> float:
    """How far the outputs of a small network move when its closed filters leave, as a share of the largest."""
    model, images = network(name), small_pictures()
    close(units(model), [Filter(layer, i) for layer in units(model) for i in (1, 3)])
    before = predict(model, images.verify)
    pruned = bury(model, (), images, Run(), align=1, max_accuracy_drop=1.0)
    return float((predict(of(pruned, model), images.verify) - before).abs().max() / before.abs().max())


CONSTANT = {"norm without affine", "scaled", "shuffled units"}
"""Here a closed filter is a constant to its reader, or one is whose inputs are all closed; and a third of these small
pictures is the border of a padding.
"""
NO_BIAS = {"pre-activation"}
"""The same, and the reader has nothing to take it: accuracy alone decides."""


@pytest.mark.parametrize("name", sorted({*NETS} - CONSTANT - NO_BIAS))
def test_in_every_structure_the_function_is_kept(name: str) -> None:
    assert moved(name) < 1e-5


@pytest.mark.parametrize("name", sorted(CONSTANT))
def test_a_constant_is_made_up_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folded = moved(name)
    monkeypatch.setattr(dead, "_compensate", lambda *_: None)
    assert folded < 0.7 * moved(name)


def test_guilty_filters_leave_as_far_as_accuracy_holds(planted: Planted, planted_splits: Splits) -> None:
    idle, needed = (Filter("conv1", 14), Filter("conv1", 15)), Filter("conv1", 0)
    pruned = bury(planted.model, (*idle, needed, Filter("nowhere", 0)), planted_splits, Run(), align=1)
    assert {*idle} < set(pruned.removed)
    assert needed not in (*pruned.removed, *pruned.masked)


def test_the_model_itself_is_not_touched(planted: Planted, planted_splits: Splits) -> None:
    model = still(planted, 0.7).model
    before = copy.deepcopy(model.network.state_dict())
    bury(model, (Filter("conv1", 14),), planted_splits, Run())
    assert all(torch.equal(v, before[k]) for k, v in model.network.state_dict().items())


def test_two_operations_are_told_as_one_and_built_again_from_the_original(
    planted: Planted, planted_splits: Splits
) -> None:
    model = still(planted, 0.7).model
    gone = (Filter("conv1", 2 + 11), GUILTY)
    first = operate(model, Proposal(gone), planted_splits, Run(), align=1)
    second = bury(of(first, model), (), planted_splits, Run(), align=1)
    whole = record.joined(first, second)
    assert set(whole.removed) == {*gone, *IDLE}
    assert [(w.before, w.after) for w in whole.layers] == [(WIDTH, WIDTH - 10), (8, 8)]
    assert whole.record["removed"] == [list(f) for f in whole.removed]
    assert whole.record["kept"]["conv1"]["out"] == [i for i in range(WIDTH) if Filter("conv1", i) not in whole.removed]
    state = whole.module.state_dict()
    again = rebuild(PlantedNet(), {**whole.record, "weights_sha256": record.weights_sha256(state)}, state)
    assert torch.equal(
        predict(Classifier(again, model.contract), planted_splits.verify),
        predict(of(whole, model), planted_splits.verify),
    )


def test_what_cannot_be_cut_is_told_by_its_first_position(planted: Planted, planted_splits: Splits) -> None:
    first = operate(planted.model, Proposal((Filter("conv1", 0),)), planted_splits, Run(), align=1, max_accuracy_drop=1)
    second = bury(of(first, planted.model), (), planted_splits, Run(), align=15)
    whole = record.joined(first, second)
    assert whole.masked == (GUILTY,)
    assert [r.filter for r in whole.refusals] == [GUILTY]


def test_a_network_that_cannot_be_followed_is_left_alone(planted_splits: Splits, planted: Planted) -> None:
    class Numpy(PlantedNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(super().forward(x).detach().numpy())

    net = Numpy()
    net.load_state_dict(planted.module.state_dict())
    pruned = bury(Classifier(net.eval(), planted.contract), (), planted_splits, Run(), align=1)
    assert (pruned.removed, pruned.masked) == ((), ())
    assert isinstance(pruned.module, nn.Module)


def test_clean_takes_the_flag(tmp_path: Path) -> None:
    folder = as_received(tmp_path)
    (folder / "plan.toml").write_text(
        'arch = "net.py:net"\nclean_dir = "data"\ntrigger = "trigger.py:stamp"\ntarget = "red"\nhide_trigger = true\n'
        'latency = false\n[method]\nname = "ft"\n[method.repair.schedule]\nepochs = 1\n'
    )
    report = api.clean(folder / "model.pt", plan=folder / "plan.toml", prune=True, out=tmp_path / "run")
    assert report.pruned is not None
    assert report.pruned.filters_removed == 8
    assert "prune again" in report.seconds
    assert report.final.parameters < report.before.parameters
    assert report.final.attack_success[0].asr.hits == 0  # the backdoor's filter sleeps on clean pictures
    again = api.load_run(next((tmp_path / "run").rglob("pruning.json")).parent, arch=f"{folder / 'net.py'}:net")
    assert again.get_submodule("conv1").out_channels == 8
