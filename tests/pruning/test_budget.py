"""The budgets of the file: reached when they can be, and the one that ended the search is named."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.architectures import randomised
from harden import stages
from harden.counting import macs_by_layer
from harden.errors import UsageError
from harden.methods.clp import clp
from harden.network import Classifier, predict
from harden.plan import Plan
from harden.pruning import budget, guard
from harden.pruning.budget import Budget, shrink
from harden.pruning.guard import accuracy
from harden.repair.regain import Regain
from harden.repair.train import Schedule
from harden.types import Contract, Evidence, Filter, Images, Proposal, Rate, Run, Splits
from harden_export import candidate
from harden_export.candidate import Candidate, Stopwatch
from harden_export.facts import file_facts
from harden_export.latency import Latency

from .nets import block

SIZE = 8


def network() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(block(3, 48), block(48, 48), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 4))
    return Classifier(randomised(module), Contract(4, tuple("abcd"), (3, SIZE, SIZE), (0.5,) * 3, (0.5,) * 3)).eval()


@pytest.fixture(scope="module")
def model() -> Classifier:
    return network()


@pytest.fixture(scope="module")
def splits(model: Classifier) -> Splits:
    """Labelled by the network itself: it starts at an accuracy of 1."""

    def images(seed: int) -> Images:
        colours = torch.rand(40, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
        noise = torch.rand(40, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed + 1))
        pixels = 0.8 * colours + 0.2 * noise
        return Images(pixels, predict(model, pixels).argmax(1), tuple(f"{seed}/{i}" for i in range(40)))

    return Splits(images(1), images(3), images(5))


def nothing(*_: object) -> None:
    """Relearns nothing."""


GUILTY = (Filter("0.0", 3), Filter("1.0", 7))


class Scales:
    """In place of the stopwatch: the weights are the bytes, and speed is what is left of them."""

    def __init__(self, original: nn.Module, **_: object) -> None:
        self.whole = weight(original)
        self.original = SimpleNamespace(bytes=self.whole)

    def __call__(self, module: nn.Module) -> Candidate:
        speed = self.whole / weight(module)
        return Candidate(
            weight(module), Latency("candidate", 1, 1, 15, 1.0, 1.0, 1.0, speed, 0.95 * speed, 1.05 * speed)
        )

    def __enter__(self) -> Scales:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to clear away."""


def weight(module: nn.Module) -> int:
    return sum(4 * parameter.numel() for parameter in module.parameters())


@pytest.fixture
def scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports take seconds, and one test of the search with the real ones is enough."""
    monkeypatch.setattr(budget, "Stopwatch", Scales)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that counts the multiplications of the exported file: that a machine is busy fails no test."""

    def measure(files: Mapping[str, Path], **_: object) -> tuple[Latency, ...]:
        times = {name: file_facts(path).macs / 1e6 for name, path in files.items()}
        speeds = {name: times["original"] / time for name, time in times.items()}
        return tuple(Latency(n, 1, 1, 15, t, t, t, speeds[n], speeds[n], speeds[n]) for n, t in times.items())

    monkeypatch.setattr(candidate, "measure_latency", measure)


@pytest.mark.usefixtures("scales")
def test_a_size_is_reached_with_no_more_than_is_needed(model: Classifier, splits: Splits) -> None:
    limit = weight(model.network) // 2
    relearned: list[Classifier] = []
    shrunk = shrink(
        model,
        Proposal(GUILTY),
        splits,
        Run(),
        Budget(max_bytes=limit, max_drop=1.0),
        lambda cut, *_: relearned.append(cut),
    )
    assert shrunk.reached
    assert shrunk.ended_by.startswith(f"reached: at most {limit} bytes")
    assert relearned[-1].network is shrunk.pruned.module
    assert weight(shrunk.pruned.module) <= limit
    assert set(GUILTY) <= set(shrunk.pruned.removed)
    assert not shrunk.pruned.masked
    widths = [layer.after for layer in shrunk.pruned.layers]
    assert all(width % 8 == 0 for width in widths)
    reached = [a.share for a in shrunk.attempts if a.reached]
    missed = [a.share for a in shrunk.attempts if not a.reached]
    assert max(missed, default=0) < min(reached), "the least share that reaches it"
    assert predict(Classifier(shrunk.pruned.module, model.contract), splits.verify).shape == (40, 4)


@pytest.mark.usefixtures("steady")
def test_a_speed_is_reached_by_the_file_itself(model: Classifier, splits: Splits) -> None:
    wanted = Budget(speedup=1.5, max_drop=1.0, tries=1)
    shrunk = shrink(model, Proposal(GUILTY), splits, Run(), wanted, nothing)
    assert shrunk.reached, shrunk.ended_by
    with Stopwatch(model.network, input_size=(3, SIZE, SIZE)) as stopwatch:
        again = stopwatch(shrunk.pruned.module)
    assert again.speedup == shrunk.attempts[-1].speedup >= 1.5
    assert again.bytes == shrunk.attempts[-1].bytes


@pytest.mark.usefixtures("scales")
def test_the_cheapest_filters_go_first(splits: Splits) -> None:
    """Sixteen filters of the first layer are made useless to the second: theirs is the first block to go."""
    model = network()
    useless = list(range(2, 48, 3))
    second = model.network[1][0]  # type: ignore[index]
    with torch.no_grad():
        second.weight[:, useless] = 0
    limit = int(weight(model.network) * 0.85)
    shrunk = shrink(model, Proposal(()), splits, Run(), Budget(max_bytes=limit, max_drop=1.0), nothing)
    gone = {filter.index for filter in shrunk.pruned.removed if filter.layer == "0.0"}
    assert gone >= set(useless) or gone <= set(useless)
    assert gone


@pytest.mark.usefixtures("scales")
def test_accuracy_ends_the_search_where_nothing_relearns(model: Classifier, splits: Splits) -> None:
    def ruin(cut: Classifier, *_: object) -> None:
        with torch.no_grad():
            cut.network[4].weight.zero_()  # type: ignore[index]
            cut.network[4].bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))  # type: ignore[index]

    assert float((splits.choose.labels != 3).float().mean()) > 0.1, "always saying 3 must be wrong somewhere"
    shrunk = shrink(
        model,
        Proposal(GUILTY),
        splits,
        Run(),
        Budget(max_bytes=weight(model.network) // 2, max_drop=0.0, tries=2),
        ruin,
    )
    assert not shrunk.reached
    assert shrunk.ended_by.startswith("accuracy:")
    assert "only the guilty filters went" in shrunk.ended_by
    assert set(GUILTY) <= set(shrunk.pruned.removed)
    assert [layer.after for layer in shrunk.pruned.layers] == [40, 40]


@pytest.mark.usefixtures("scales")
def test_nobody_is_judged_on_what_it_learned_from(
    model: Classifier, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image is held back once; what comes of the search has relearned from all, and no other; all as long."""
    learned: dict[int, frozenset[str]] = {}
    patience: list[float] = []
    judged: list[tuple[frozenset[str], frozenset[str]]] = []

    def relearn(cut: Classifier, images: Images, longer: float) -> None:
        patience.append(longer)
        learned[id(cut)] = frozenset(images.names)
        kept.append(cut)

    def watched(judge: Classifier, images: Images) -> Rate:
        if id(judge) in learned:
            judged.append((learned[id(judge)], frozenset(images.names)))
        return accuracy(judge, images)

    kept: list[Classifier] = []
    monkeypatch.setattr(guard, "accuracy", watched)
    limit = weight(model.network) // 2
    shrunk = shrink(model, Proposal(()), splits, Run(), Budget(max_bytes=limit, max_drop=1.0), relearn)
    everything = frozenset(splits.tune.names + splits.choose.names)
    assert len(judged) == budget.FOLDS
    assert all(not seen & held for seen, held in judged)
    assert all(seen | held == everything for seen, held in judged)
    assert sum(len(held) for _, held in judged) == len(everything)
    assert shrunk.attempts[-1].accuracy is not None
    assert shrunk.attempts[-1].accuracy.total == len(everything)
    assert learned[id(kept[-1])] == everything
    assert kept[-1].network is shrunk.pruned.module
    assert patience == [budget.LONGER] * (budget.FOLDS + 1), "who is judged is made as what ships is"


@pytest.mark.usefixtures("scales")
@pytest.mark.parametrize(("small", "longer"), [(1.0, budget.LONGER), (0.5, budget.LONGER / 2), (0.1, 1.0)])
def test_the_larger_a_network_the_less_longer_it_relearns(
    model: Classifier, splits: Splits, monkeypatch: pytest.MonkeyPatch, small: float, longer: float
) -> None:
    macs = sum(macs_by_layer(model.network, model.contract.input_size).values())
    monkeypatch.setattr(budget, "SMALL", small * macs)
    asked: list[float] = []
    limit = weight(model.network) // 2
    shrink(model, Proposal(()), splits, Run(), Budget(max_bytes=limit, max_drop=1.0), lambda *a: asked.append(a[2]))
    assert asked == [longer] * len(asked)
    assert len(asked) == budget.FOLDS + 1


@pytest.mark.usefixtures("scales")
def test_what_is_out_of_reach_is_said_with_what_was_reached(model: Classifier, splits: Splits) -> None:
    shrunk = shrink(model, Proposal(()), splits, Run(), Budget(speedup=1000, max_drop=1.0, tries=2), nothing)
    assert not shrunk.reached
    assert "out of reach: 1000 times as fast" in shrunk.ended_by
    assert f"{shrunk.attempts[-1].bytes} bytes" in shrunk.ended_by


@pytest.mark.usefixtures("scales")
def test_the_model_is_given_back_as_it_was(model: Classifier, splits: Splits) -> None:
    def state() -> bytes:
        buffer = io.BytesIO()
        torch.save(model.network.state_dict(), buffer)
        return buffer.getvalue()

    before = state()
    shrink(model, Proposal(()), splits, Run(), Budget(max_bytes=10**9, tries=1), nothing)
    assert state() == before


@pytest.mark.usefixtures("scales")
def test_a_clean_model_is_cut_too_where_the_plan_asks_for_it(
    model: Classifier, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Regain, "__call__", lambda *_: {})
    evidence = Evidence("clean", (), (), ())
    assert stages.prune(clp(), model, splits, evidence, Plan(), Run()).budget is None
    limit = weight(model.network) // 2 + 20_000
    pruned = stages.prune(clp(), model, splits, evidence, Plan(max_size=limit, max_drop=100.0), Run())
    assert pruned.budget is not None
    assert pruned.budget.reached
    assert pruned.budget.max_bytes == limit
    assert pruned.removed
    assert weight(pruned.module) < limit - stages.LABELS, "room is left for what the file says about itself"
    assert stages.cut_of(pruned).budget == pruned.budget


def test_what_relearns_after_the_cut_brings_accuracy_back(model: Classifier, splits: Splits) -> None:
    hurt = model.copy()
    with torch.no_grad():
        hurt.network[4].weight.mul_(0.1)  # type: ignore[index]
        hurt.network[4].bias.copy_(torch.tensor([0.0, 0.0, 0.0, 1.0]))  # type: ignore[index]
    before = accuracy(hurt, splits.choose)
    Regain(Schedule(epochs=1, least_steps=40, batch=32, rate=0.05))(hurt, model, splits, Run())
    after = accuracy(hurt, splits.verify)
    assert before.value < 0.6
    assert after.value > before.value + 0.2


def test_relearning_longer_takes_so_many_times_the_steps(model: Classifier, splits: Splits) -> None:
    quick = Regain(Schedule(epochs=2, batch=len(splits.tune), rate=0.01), longer=2.5)
    assert quick(model.copy(), model, splits, Run())["epochs"] == 5


def test_no_budget_is_an_error(model: Classifier, splits: Splits) -> None:
    with pytest.raises(UsageError, match="a speed-up or a size"):
        shrink(model, Proposal(()), splits, Run(), replace(Budget(), max_drop=0.5), nothing)
