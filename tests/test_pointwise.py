"""A linear layer that is applied at each place is to everybody the convolution of one pixel that it is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from harden.network import Classifier, close, predict, units
from harden.pruning import guard
from harden.pruning.clp import lipschitz
from harden.pruning.dormant import Dormant
from harden.pruning.masks import closed_filters
from harden.pruning.multipliers import multiplied
from harden.repair.edit import mean_activations
from harden.scoring.gradient import UnlearningGradient
from harden.types import Evidence, Filter, Run
from tests.pruning.nets import network, splits

NAMES = ("middle.0.first", "middle.1.first")


def _convolution(linear: nn.Module) -> nn.Conv2d:
    assert isinstance(linear, nn.Linear)
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1)
    conv.load_state_dict({"weight": linear.weight[:, :, None, None], "bias": linear.bias})
    return conv


class Convolutional(nn.Module):
    """The same two steps as convolutions."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm = block.get_submodule("norm")
        self.first, self.second = (_convolution(block.get_submodule(name)) for name in ("first", "second"))

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        y: Tensor = x + self.second(nn.functional.gelu(self.first(normal)))
        return y


@pytest.fixture
def both() -> tuple[Classifier, Classifier]:
    model = network("pointwise")
    twin = model.copy().eval()
    for i in range(2):
        twin.network.set_submodule(f"middle.{i}", Convolutional(twin.network.get_submodule(f"middle.{i}")))
    torch.testing.assert_close(predict(twin, splits().tune), predict(model, splits().tune), rtol=1e-4, atol=1e-5)
    return model, twin


def same(found: dict[str, Tensor], twins: dict[str, Tensor]) -> None:
    for name in NAMES:
        assert twins[name].std() > 0
        torch.testing.assert_close(found[name], twins[name], rtol=1e-3, atol=1e-7)


def test_every_number_about_its_filters_is_the_same(both: tuple[Classifier, Classifier]) -> None:
    images = splits().tune
    score = UnlearningGradient()
    for number in (
        lambda m: {name: lipschitz(unit) for name, unit in units(m).items()},
        lambda m: guard.costs(m, units(m), images, batch=3),
        lambda m: mean_activations(m, units(m), images),
        lambda m: score(m, units(m), images, images),
    ):
        found, twins = map(number, both)
        same(found, twins)  # type: ignore[arg-type]


def test_masks_and_noise_are_the_same(both: tuple[Classifier, Classifier]) -> None:
    images, said = splits().tune, []
    for model in both:
        parts = {name: units(model)[name] for name in NAMES}
        random = torch.Generator().manual_seed(1)
        mask, scale, shift = ({n: torch.rand(u.width, generator=random) for n, u in parts.items()} for _ in range(3))
        before = predict(model, images)
        with multiplied(parts, mask, scale, shift):
            said.append(predict(model, images))
        assert not torch.allclose(said[-1], before, atol=1e-3)
    torch.testing.assert_close(*said, rtol=1e-4, atol=1e-5)


def test_the_last_of_them_can_be_the_dormant_layer(both: tuple[Classifier, Classifier]) -> None:
    found = Dormant(max_drop=1.0)(both[0], splits(), Evidence("clean", (), (), ()), Run()).guilty
    assert found
    assert {filter.layer for filter in found} == {NAMES[-1]}


def test_closed_ones_are_known_again(both: tuple[Classifier, Classifier]) -> None:
    wanted = (Filter(NAMES[0], 2), Filter(NAMES[1], 5))
    for model in both:
        close(units(model), wanted)
        assert closed_filters(model) == wanted
