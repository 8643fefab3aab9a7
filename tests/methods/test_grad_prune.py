"""Grad-Prune as a whole on the planted filter."""

from __future__ import annotations

import torch

from harden.methods import METHODS
from harden.network import close, predict, units
from harden.pruning.greedy import Greedy
from harden.repair.relabel import Relabel
from harden.repair.train import Schedule
from harden.triggers.attacked import attacked
from harden.types import Evidence, Images, Run, Splits, Trigger
from tests.planted import GUILTY, TARGET, Planted


def test_its_settings_are_the_published_ones() -> None:
    method = METHODS["grad-prune"]()
    assert isinstance(method.prune, Greedy)
    assert (method.prune.max_accuracy_drop, method.prune.patience) == (0.10, 10)
    assert isinstance(method.repair, Relabel)
    schedule = method.repair.schedule
    assert (schedule.rate, schedule.momentum, schedule.weight_decay, schedule.batch) == (1e-3, 0.9, 5e-4, 128)
    assert (schedule.optimizer, schedule.patience) == ("sgd", 10)


def test_relabelling_normalises_triggered_images_as_the_finished_network_will(
    planted: Planted, planted_splits: Splits
) -> None:
    """In train mode a trigger on the whole picture would be normalised away, and nothing learned about it."""
    brighter = Trigger("brighter", "given", TARGET, lambda i: Images(i.pixels + 0.2, i.labels, i.names))
    evidence = Evidence("backdoored", (TARGET,), (), (brighter,))
    repair = METHODS["grad-prune"](epochs=2).repair
    assert repair is not None
    model = planted.model.copy()
    repair(model, planted.model, planted_splits, evidence, Run())
    after = model.network.state_dict()
    for name, before in planted.module.state_dict().items():
        if "running" in name:
            assert torch.equal(after[name], before), name


def test_backdoor_gone_accuracy_kept(planted: Planted, planted_splits: Splits) -> None:
    method = METHODS["grad-prune"]()
    assert method.prune is not None
    assert method.repair is not None
    proposal = method.prune(planted.model, planted_splits, planted.evidence, Run())
    model = planted.model.copy()
    close(units(model), proposal.guilty)
    notes = Relabel(Schedule(epochs=5, rate=1e-3))(model, planted.model, planted_splits, planted.evidence, Run())
    verify = planted_splits.verify
    on = attacked(planted.evidence.triggers, verify)
    assert bool((predict(model, verify).argmax(1) == verify.labels).all())
    assert on.success(predict(model, on.images).argmax(1)).hits == 0
    assert notes["epochs"] == 5


def test_relabelling_keeps_what_is_closed(planted: Planted, planted_splits: Splits) -> None:
    model = planted.model.copy()

    close(units(model), [GUILTY])
    before = model.network.get_parameter("fc.weight").clone()
    Relabel(Schedule(epochs=3, rate=1e-2))(model, planted.model, planted_splits, planted.evidence, Run())
    assert not torch.equal(before, model.network.get_parameter("fc.weight")), "nothing was learned"
    unit = units(model)[GUILTY.layer]
    assert all(not bool(p[GUILTY.index].any()) for p in unit.parameters())


def test_relabelling_leaves_a_model_alone_that_has_no_backdoor(planted: Planted, planted_splits: Splits) -> None:
    model = planted.model.copy()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    notes = Relabel()(model, planted.model, planted_splits, Evidence("clean", (), (), ()), Run())
    assert notes["epochs"] == 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_pass_of_relabelling_is_no_larger_for_many_stand_ins(planted: Planted, planted_splits: Splits) -> None:
    """Every stand-in on every image of a batch took gigabytes."""
    model = planted.model.copy()
    sizes: list[int] = []

    def note(_: object, given: tuple[torch.Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            sizes.append(len(given[0]))

    model.register_forward_pre_hook(note)
    many = Evidence("backdoored", (TARGET,), (), planted.evidence.triggers * 8)
    Relabel(Schedule(epochs=1, batch=16))(model, planted.model, planted_splits, many, Run())
    assert sizes
    assert max(sizes) <= 17  # a rest of one image joins the batch before it
