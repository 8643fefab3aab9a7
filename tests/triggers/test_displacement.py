"""How far features have to move, against answers that geometry gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from harden.head import head
from harden.network import Classifier
from harden.triggers.displacement import displacements
from harden.types import Contract, Images
from tests.planted import Planted, pictures
from tests.pruning.nets import network


def linear(weight: Tensor, bias: Tensor | None = None) -> Classifier:
    """Pixels are features: one row of them, as they are."""
    classes, width = weight.shape
    layer = nn.Linear(width, classes, bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    contract = Contract(classes, tuple(str(k) for k in range(classes)), (1, 1, width), (0.0,), (1.0,))
    return Classifier(nn.Sequential(nn.Flatten(), layer), contract).eval()


def features(rows: Tensor, labels: list[int]) -> Images:
    return Images(rows[:, None, None], torch.tensor(labels), tuple(str(i) for i in range(len(rows))))


def one_hot(classes: int, width: int, each: int = 5) -> Images:
    labels = torch.arange(classes).repeat_interleave(each)
    return features(torch.eye(width)[labels], labels.tolist())


def test_between_two_classes_it_is_the_distance_to_the_plane() -> None:
    weight, bias = torch.tensor([[1.0, 0], [0, 3]]), torch.tensor([0.5, 0])
    rows = torch.tensor([[1.0, 0.2], [0.1, 1]])
    found = displacements(linear(weight, bias), features(rows, [0, 1]))
    assert found is not None
    apart = rows @ weight[0] + 0.5 - rows @ weight[1]  # logit 0 less logit 1
    expected = torch.tensor([-apart[1], apart[0]]) / math.sqrt(10)
    torch.testing.assert_close(found, expected)


def test_the_moved_features_are_given_the_class_and_barely() -> None:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 6, generator=g)
    rows = torch.rand(1, 6, generator=g)
    found = displacements(linear(weight), features(rows, [0]))
    assert found is not None
    # By brute force: the least of many displacements that make class 2 win.
    trials = torch.randn(200_000, 6, generator=g)
    logits, moved = rows @ weight.T, trials @ weight.T
    need = (logits - logits[:, 2:3]).expand(len(trials), -1)
    gain = moved[:, 2:3] - moved
    factor = torch.where(gain > 0, need / gain, torch.where(need > 0, torch.inf, 0.0)).amax(1).clamp_min(0)
    best = float((factor * trials.norm(dim=1)).min())
    assert best >= float(found[2]) - 1e-4
    assert best == pytest.approx(float(found[2]), rel=0.1)  # so many trials in six dimensions come so near


def test_a_direction_that_overrules_all_others_gives_its_class_away() -> None:
    weight = torch.cat([torch.eye(5), torch.zeros(5, 1)], 1)
    images = one_hot(5, 6)
    honest = displacements(linear(weight), images)
    weight[3, 5] = 10
    betrayed = displacements(linear(weight), images)
    assert honest is not None
    assert betrayed is not None
    torch.testing.assert_close(honest, torch.full((5,), float(honest[0])))
    assert int(betrayed.argmin()) == 3
    assert float(betrayed[3]) < 0.2 * float(betrayed[[0, 1, 2, 4]].min())


def test_one_stubborn_image_in_a_hundred_does_not_count() -> None:
    rows = torch.tensor([[1.0, 0]]).repeat(100, 1)
    easy = displacements(linear(torch.eye(2)), features(rows, [0] * 100))
    rows[0, 0] = 50
    stubborn = displacements(linear(torch.eye(2)), features(rows, [0] * 100))
    strict = displacements(linear(torch.eye(2)), features(rows, [0] * 100), quantile=1.0)
    assert easy is not None
    assert stubborn is not None
    assert strict is not None
    assert float(stubborn[1]) == pytest.approx(float(easy[1]))
    assert float(strict[1]) == pytest.approx(50 / math.sqrt(2), rel=1e-3)
    assert float(easy[0]) == math.inf, "there is no image of another class"


def test_none_where_no_linear_layer_makes_the_logits() -> None:
    convolutional = network("convolutional")
    images = Images(torch.rand(4, 3, 8, 8), torch.arange(4), ("a", "b", "c", "d"))
    assert displacements(convolutional, images) is None
    hidden = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 7)), convolutional.contract)
    assert head(hidden) is None


def test_the_model_is_given_back_without_a_hook(planted: Planted) -> None:
    model, last = planted.model, planted.module.fc
    displacements(model, pictures(2))
    assert head(model) is last
    assert not last._forward_pre_hooks
