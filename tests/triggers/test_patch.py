"""Recoverers on a network with one planted patch, on the same network without it, and where they must not decide."""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor, nn

from harden.network import Classifier, predict
from harden.triggers.patch import Patch, anomaly
from harden.triggers.universal import Universal
from harden.types import Contract, Images, Run, Splits
from tests.planted import Planted

CLASSES, SIDE, TARGET = 8, 12, 5


class Bars(nn.Module):
    """Class k is a bright row k; with `backdoor`, one bright pixel in the last corner means TARGET."""

    def __init__(self, backdoor: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.conv.weight.data.fill_(1)
        self.backdoor = backdoor

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        rows = 12 * x[:, 0, :CLASSES, : SIDE - 2].mean(2)
        corner = torch.zeros(CLASSES, device=x.device).index_fill(0, torch.tensor(TARGET), self.backdoor)
        return rows + (x[:, 0, -1, -1:] - 0.05).relu() * corner


def bars(per_class: int, seed: int) -> Images:
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    pixels = 0.1 * torch.rand(len(labels), 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    pixels[range(len(labels)), 0, labels] += 0.8
    return Images(pixels, labels, tuple(f"{seed}/{i}.png" for i in range(len(labels))))


def network(backdoor: float) -> Classifier:
    names = tuple(map(str, range(CLASSES)))
    return Classifier(Bars(backdoor), Contract(CLASSES, names, (1, SIDE, SIDE), (0.0,), (1.0,))).eval()


SPLITS = Splits(bars(6, 0), bars(6, 1), bars(6, 2))


def test_finds_the_planted_patch_and_its_class() -> None:
    model = network(60.0)
    assert bool((predict(model, SPLITS.verify).argmax(1) == SPLITS.verify.labels).all())
    found = Patch(steps=120)(model, SPLITS, Run())
    assert (found.status, found.target_classes) == ("backdoored", (TARGET,))
    (trigger,) = found.triggers
    assert (trigger.source, trigger.target) == ("recovered", TARGET)
    attacked = trigger(SPLITS.verify)
    assert float((predict(model, attacked).argmax(1) == TARGET).float().mean()) > 0.95
    changed = (attacked.pixels - SPLITS.verify.pixels).abs().mean((0, 1))
    assert int(changed.argmax()) == SIDE * SIDE - 1, "the patch is not where the backdoor is"
    assert trigger.settings["pixels"] < 4
    scores = {e.label: e.score for e in found.evidence}
    assert max(scores, key=lambda k: scores[k]) == TARGET


def test_accuses_no_class_of_the_clean_twin() -> None:
    found = Patch(steps=120)(network(0.0), SPLITS, Run())
    assert found.status != "backdoored"
    assert found.triggers == ()


def test_same_seed_same_patch() -> None:
    first, second = (Patch(steps=25)(network(60.0), SPLITS, Run(seed=3)) for _ in range(2))
    assert first.evidence == second.evidence


def test_too_few_classes_or_images_are_inconclusive(planted: Planted, planted_splits: Splits) -> None:
    found = Patch()(planted.model, planted_splits, Run())
    assert found.status == "inconclusive"
    assert "3 classes" in found.why
    few = SPLITS.tune.take(torch.arange(0, 48, 6))
    assert Patch()(network(60.0), Splits(few, few, few), Run()).status == "inconclusive"


def test_no_time_is_inconclusive() -> None:
    found = Patch()(network(60.0), SPLITS, Run(deadline=time.monotonic() - 1))
    assert (found.status, found.triggers) == ("inconclusive", ())


@pytest.mark.parametrize("recover", [Patch(steps=5), Universal(epochs=1)], ids=["patch", "universal"])
def test_the_model_is_given_back_as_it_was(recover: Patch | Universal) -> None:
    model = network(60.0).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    recover(model, SPLITS, Run())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_universal_finds_the_favoured_class() -> None:
    model = network(60.0)
    found = Universal(eps=0.3, step=0.05)(model, SPLITS, Run())
    assert (found.status, found.target_classes) == ("backdoored", (TARGET,))
    attacked = found.triggers[0](SPLITS.verify)
    assert float((attacked.pixels - SPLITS.verify.pixels).abs().max()) <= 0.3 + 1e-6


def test_universal_gives_no_all_clear() -> None:
    found = Universal()(network(0.0), SPLITS, Run())
    assert (found.status, found.triggers) == ("inconclusive", ())


def test_anomaly_index_by_hand() -> None:
    # median 10, deviations 8, 1, 0, 1, 2: their median is 1
    found = anomaly({0: 2.0, 1: 9.0, 2: 10.0, 3: 11.0, 4: 12.0})
    assert found[0] == pytest.approx(8 / 1.4826)
    assert found[4] == pytest.approx(-2 / 1.4826)
    assert anomaly({}) == {}
    assert all(math.isfinite(v) for v in anomaly({0: 1.0, 1: 1.0}).values())
