"""Each repair on a network whose answer is known; and worse, when the idea that it lives by is taken out."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harden.head import head
from harden.network import Classifier, classifier, predict
from harden.repair.ascent import Ascent
from harden.repair.edit import EditLateLayers
from harden.repair.feature_shift import FeatureShift
from harden.repair.fine_tune import FineTune, sharpness_aware
from harden.repair.implicit import ImplicitUnlearning
from harden.repair.losses import accuracy
from harden.repair.shared import SharedAdversarial, jensen_shannon, log_not
from harden.repair.stamped import Stamped
from harden.repair.train import Schedule
from harden.repair.tsbd import ZeroAndTune, mixed
from harden.repair.ulrl import RelearnRows, RowShift
from harden.repair.unlearn import Unlearn
from harden.triggers.entropy import EntropyGenerator
from harden.types import Evidence, Filter, Images, Repairer, Run, Splits, Trigger
from tests.planted import GAIN, SCALE, TARGET, Planted, reachable, stamp

NO_EVIDENCE = Evidence("inconclusive", (), (), ())
FEW = Schedule(epochs=10, batch=32, rate=0.01, freeze_norm=True)


def soft(planted: Planted) -> Planted:
    """Less sure of everything, so that losses have gradients; what it says stays the same."""
    with torch.no_grad():
        planted.module.fc.weight /= 50
    return planted


def apart(planted: Planted) -> Planted:
    """The backdoor has a feature of its own, which only the target's row of the classifier reads."""
    net = planted.module
    assert net.bn2.running_mean is not None
    assert net.bn2.running_var is not None
    with torch.no_grad():
        net.conv2.weight[TARGET, 3] = 0
        net.conv2.weight[3] = 0
        net.conv2.weight[3, 3] = GAIN
        for row, value in ((net.bn2.running_mean, 0), (net.bn2.running_var, 1), (net.bn2.weight, 1), (net.bn2.bias, 0)):
            row[3] = value
        net.fc.weight[:, 3] = 0
        net.fc.weight[TARGET, 3] = SCALE
    return planted


def attack_success(model: Classifier, images: Images) -> float:
    said = predict(model, stamp(images.pixels)).argmax(1)
    return float((said[images.labels != TARGET] == TARGET).float().mean())


def repaired(
    planted: Planted, splits: Splits, repair: Repairer, evidence: Evidence = NO_EVIDENCE
) -> tuple[float, float]:
    """Accuracy and attack success afterwards."""
    model = classifier(planted.suspect)
    assert attack_success(model, splits.verify) == 1.0
    repair(model, classifier(planted.suspect), splits, evidence, Run())
    assert not model.training
    return accuracy(model, splits.verify).value, attack_success(model, splits.verify)


def test_shared_adversarial_unlearning_needs_its_examples(planted: Planted, planted_splits: Splits) -> None:
    schedule = Schedule(epochs=15, batch=256, rate=0.01, optimizer="adam", weight_decay=0.0, freeze_norm=True)
    on = SharedAdversarial(schedule)
    acc, asr = repaired(soft(planted), planted_splits, on)
    _, without = repaired(planted, planted_splits, replace(on, eps=0.0, step=0.0))
    assert acc == 1.0
    assert asr <= 0.6 < without


def test_divergence_and_logarithm_by_their_definitions() -> None:
    a, b = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).double()
    p, q = a.softmax(1), b.softmax(1)
    m = (p + q) / 2
    expected = ((p * (p / m).log()).sum(1) + (q * (q / m).log()).sum(1)) / 2
    assert torch.allclose(jensen_shannon(a, b), expected)
    assert torch.allclose(log_not(a, torch.arange(6) % 4), (1 - p[range(6), torch.arange(6) % 4]).log())
    sure = torch.tensor([[300.0, 0.0]], requires_grad=True)
    log_not(sure, torch.tensor([0])).sum().backward()
    assert sure.grad is not None
    assert float(sure.grad.abs().max()) == pytest.approx(1.0)  # a clamped probability would leave 0 here


def test_implicit_unlearning_needs_its_perturbation(planted: Planted, planted_splits: Splits) -> None:
    schedule = Schedule(epochs=15, batch=30, rate=0.01, optimizer="adam", weight_decay=0.0, freeze_norm=True)
    on = ImplicitUnlearning(schedule, share=0.2)
    acc, asr = repaired(soft(planted), planted_splits, on)
    _, without = repaired(planted, planted_splits, replace(on, inner_rate=0.0))
    assert acc == 1.0
    assert asr < without


def test_relearning_the_targets_row_and_no_other(planted: Planted, planted_splits: Splits) -> None:
    guilty = Evidence("backdoored", (TARGET,), (), ())
    wrong = Evidence("backdoored", (1,), (), ())
    assert repaired(apart(planted), planted_splits, RelearnRows(augment=False), guilty) == (1.0, 0.0)
    assert repaired(planted, planted_splits, RelearnRows(augment=False), wrong)[1] == 1.0
    assert repaired(planted, planted_splits, RelearnRows(augment=False))[1] == 1.0


@dataclass(frozen=True)
class _Outweighed(RelearnRows):
    """Relearning with a known result: unless alpha is small, the cosine has its way."""

    def _relearn(self, *given: Any) -> dict[str, Any]:
        _, last, rows, old, alpha, *_ = given
        with torch.no_grad():
            last.weight[rows] = old if alpha < 0.05 else -old
        return {"epochs": 1, "stopped_because": "told to"}


def test_where_the_cosine_outweighs_the_class_relearning_starts_again_with_less(
    planted: Planted, planted_splits: Splits
) -> None:
    guilty = Evidence("backdoored", (1,), (), ())
    for tries, alpha, regained in ((1, 0.7, False), (3, 0.007, True)):
        model = planted.model.copy()
        told = _Outweighed(tries=tries)(model, planted.model, planted_splits, guilty, Run())
        assert told["alpha"] == pytest.approx(alpha)
        assert (accuracy(model, planted_splits.verify).value == 1.0) == regained


@dataclass(frozen=True)
class _Forget:
    """Clean unlearning with a known result: these rows of the classifier move, this much."""

    moves: dict[int, float]

    def __call__(self, model: Classifier, images: Images, run: Run) -> tuple[Classifier, dict[str, Any]]:  # noqa: ARG002
        copy = model.copy()
        last = head(copy)
        assert last is not None
        with torch.no_grad():
            for row, size in self.moves.items():
                last.weight[row] += size
        return copy, {"stopped_because": "told to", "accuracy": 0.1}


def test_the_rows_that_move_most_are_suspected_not_the_first_ones(planted_splits: Splits, planted: Planted) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    model = Classifier(net, replace(planted.contract, num_classes=10, classes=tuple("abcdefghij"))).eval()
    moves = {k: 0.001 * (k + 1) for k in range(10)} | {1: 0.1, 4: 0.2, 8: 0.3}
    evidence = RowShift(unlearn=_Forget(moves))(model, planted_splits, Run())  # type: ignore[arg-type]
    assert evidence.status == "backdoored"
    assert evidence.target_classes == (8, 4)
    assert {e.label for e in evidence.evidence if e.score > e.threshold} == {1, 4, 8}
    still = RowShift(unlearn=_Forget(dict.fromkeys(range(10), 0.01)))(model, planted_splits, Run())  # type: ignore[arg-type]
    assert still.status == "inconclusive"


def test_features_move_away_from_the_old_classifier(planted: Planted, planted_splits: Splits) -> None:
    acc, asr = repaired(planted, planted_splits, FeatureShift(augment=False))
    assert acc == 1.0
    assert asr < 0.5
    assert repaired(planted, planted_splits, FineTune(FeatureShift().schedule, augment=False))[1] == 1.0
    model = classifier(planted.suspect)
    before = planted.module.fc.weight.norm()
    FeatureShift(FEW)(model, model, planted_splits, NO_EVIDENCE, Run())
    after = head(model)
    assert after is not None
    assert torch.isclose(after.weight.norm(), before)


def test_stamped_images_keep_their_labels(planted: Planted, planted_splits: Splits) -> None:
    stamped = Stamped(Schedule(epochs=20, batch=128, rate=0.01))
    assert repaired(planted, planted_splits, stamped, planted.evidence) == (1.0, 0.0)
    assert repaired(planted, planted_splits, stamped) == (1.0, 1.0)


@pytest.mark.parametrize("relabel", [False, True])
def test_ascent_from_the_target_and_relabelling(planted: Planted, planted_splits: Splits, relabel: bool) -> None:
    repair = Ascent(replace(FEW, batch=128, weight_decay=0.0, least_steps=60), alpha=1.0, relabel=relabel)
    acc, asr = repaired(soft(planted), planted_splits, repair, planted.evidence)
    assert acc == 1.0
    assert asr < 0.2
    assert repaired(planted, planted_splits, repair)[1] == 1.0  # nothing recovered, nothing changed


def test_ascent_needs_patches_of_a_trained_generator(planted_splits: Splits) -> None:
    attacked = soft(reachable())
    generate = EntropyGenerator(steps=60, probe_steps=30, hidden=64, batch=32)
    unlearn = Ascent(replace(FEW, batch=64, weight_decay=0.0, least_steps=60), alpha=1.0)
    trained = generate(attacked.model, planted_splits, Run())
    untrained = replace(generate, steps=0)(attacked.model, planted_splits, Run())
    assert (trained.target_classes, untrained.target_classes) == ((TARGET,), (TARGET,))
    acc, asr = repaired(attacked, planted_splits, unlearn, trained)
    assert acc == 1.0
    assert asr < 0.2
    assert repaired(attacked, planted_splits, unlearn, untrained)[1] == 1.0


def test_the_distance_penalty_pulls_towards_the_suspect(planted: Planted, planted_splits: Splits) -> None:
    model, suspect = classifier(planted.suspect), classifier(planted.suspect)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3)
    schedule = Schedule(epochs=5, batch=60, rate=1e-4, momentum=0.0, weight_decay=0.0, freeze_norm=True)
    alone = Ascent(schedule, alpha=0.0, weight=1.0, until=-1)  # so sure a network that the ascent has no slope
    alone(model, suspect, planted_splits, planted.evidence, Run())
    for p, q in zip(model.parameters(), suspect.parameters(), strict=True):
        assert torch.allclose(p - q, torch.full_like(p, 5e-4), atol=1e-5)  # five steps of 1e-4; float32 around 20


def test_editing_turns_down_what_the_trigger_turns_up(planted: Planted, planted_splits: Splits) -> None:
    edit = EditLateLayers(2, repair=None)
    assert repaired(apart(planted), planted_splits, edit, planted.evidence) == (1.0, 0.0)
    nothing = Trigger("nothing", "probe", TARGET, lambda images: images)
    blind = Evidence("backdoored", (TARGET,), (), (nothing,))
    assert repaired(planted, planted_splits, edit, blind)[1] == 1.0
    assert repaired(planted, planted_splits, edit) == (1.0, 1.0)


def test_the_weights_that_change_most_are_zeroed(planted: Planted, planted_splits: Splits) -> None:
    model = planted.model
    change = {"conv1": torch.zeros(16, 3, 3, 3), "conv2": torch.zeros(8, 16, 1, 1)}
    change["conv1"][9, 0] = 1.0
    before = planted.module.conv1.weight.detach().clone()
    share, guilty = ZeroAndTune(shares=(1 / 24,), weights=9 / 27)._zero(model, change, planted_splits)
    assert share == 1 / 24
    assert guilty == (Filter("conv1", 9),)
    after = planted.module.conv1.weight.detach()
    assert not bool(after[9, 0].any())
    after[9, 0] = before[9, 0]
    assert torch.equal(after, before)


def test_zeroing_stops_where_accuracy_pays(planted: Planted, planted_splits: Splits) -> None:
    change = {"conv1": torch.zeros(16, 3, 3, 3), "conv2": torch.zeros(8, 16, 1, 1)}
    change["conv1"][1:3] = 1.0  # the filters for green and blue
    before = planted.module.conv1.weight.detach().clone()
    assert ZeroAndTune(shares=(2 / 24, 1.0), weights=1.0)._zero(planted.model, change, planted_splits) == (0.0, ())
    assert torch.equal(before, planted.module.conv1.weight)


def test_two_stage_defence_runs_whole(planted: Planted, planted_splits: Splits) -> None:
    quick = ZeroAndTune(Unlearn(replace(FEW, rate=1e-3), until=0.1), FEW)
    assert repaired(planted, planted_splits, quick)[0] == 1.0


class _Slope(nn.Module):
    """L = sum of a_i w_i^2 / 2, whose gradient is known everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([2.0, -1.0, 0.5]).double())
        self.a = torch.tensor([1.0, 4.0, 9.0]).double()

    def loss(self) -> Tensor:
        total: Tensor = (self.a * self.w.square()).sum() / 2
        return total


def test_the_sharpness_aware_gradient_is_that_of_the_worst_point_nearby() -> None:
    slope = _Slope()
    w, a, rho = slope.w.detach().clone(), slope.a, 0.3
    sharpness_aware(rho)(slope.loss, [slope.w])
    g = a * w
    e = rho * w.square() * g / (w.abs() * g).norm()
    assert slope.w.grad is not None
    assert torch.allclose(slope.w.grad, a * (w + e))
    assert torch.equal(slope.w.detach(), w)


def test_the_mixed_gradient_by_its_formula() -> None:
    slope = _Slope()
    w, a = slope.w.detach().clone(), slope.a
    mixed(0.05, 0.7)(slope.loss, [slope.w])
    g1 = a * w
    g2 = a * (w + 0.05 * g1 / g1.norm())
    assert slope.w.grad is not None
    assert torch.allclose(slope.w.grad, 0.3 * g1 + 0.7 * g2)


def test_unlearning_leaves_the_model_alone_and_starts_again_after_infinity(
    planted: Planted, planted_splits: Splits
) -> None:
    before = planted.module.fc.weight.detach().clone()
    forgetful, record = Unlearn(replace(FEW, epochs=30, rate=0.1, clip=20.0), until=0.5)(
        planted.model, planted_splits.tune, Run()
    )
    assert record["accuracy"] <= 0.5
    assert accuracy(forgetful, planted_splits.tune).value <= 0.5
    assert torch.equal(before, planted.module.fc.weight)
    _, record = Unlearn(replace(FEW, rate=1e30))(planted.model, planted_splits.tune, Run())
    assert record["schedule"]["rate"] < 1e30


@pytest.mark.parametrize("repair", [FineTune(FEW), FeatureShift(FEW), RelearnRows(FEW)], ids=lambda r: type(r).__name__)
def test_published_fine_tuning_sees_crops_and_mirror_images(
    planted: Planted, planted_splits: Splits, repair: FineTune | FeatureShift | RelearnRows
) -> None:
    evidence = Evidence("backdoored", (TARGET,), (), ())
    weights = []
    for method in (repair, replace(repair, augment=False)):
        model = classifier(planted.suspect)
        method(model, classifier(planted.suspect), planted_splits, evidence, Run())
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert not torch.equal(*weights)


@pytest.mark.parametrize("repair", [Stamped(FEW), ZeroAndTune(tune=FEW)], ids=lambda r: type(r).__name__)
def test_what_is_published_with_crops_and_mirror_images_learns_from_them(
    planted: Planted, planted_splits: Splits, repair: Stamped | ZeroAndTune, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def kept(pixels: torch.Tensor, _: torch.Generator) -> torch.Tensor:
        seen.append(len(pixels))
        return pixels

    monkeypatch.setattr(sys.modules[type(repair).__module__], "published", lambda *_: kept)
    repair(classifier(planted.suspect), classifier(planted.suspect), planted_splits, planted.evidence, Run())
    assert sum(seen) >= len(planted_splits.tune)
