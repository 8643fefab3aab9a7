"""Few filters serve a backdoor; that a picture painted red is red is everybody's doing."""

from __future__ import annotations

import pytest
import torch

from harden.network import Classifier
from harden.pruning.few import FewFilters
from harden.pruning.gated import GateSearch
from harden.types import Images, Run, Splits, Trigger
from tests.planted import TARGET, Planted


def test_the_planted_trigger_loses_its_filter(
    planted: Planted, planted_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(GateSearch, "_left")  # it is asked about this change, and looks for no other
    weights = {k: v.clone() for k, v in planted.model.state_dict().items()}
    opinion = FewFilters()(planted.model, planted_splits, planted.trigger, Run())
    assert opinion.closed >= 1
    assert opinion.follow == 0
    assert all(torch.equal(v, weights[k]) for k, v in planted.model.state_dict().items())


def test_a_whole_picture_in_the_colour_of_the_target_keeps_its_class(planted: Planted, planted_splits: Splits) -> None:
    def painted(images: Images) -> Images:
        pixels = torch.zeros_like(images.pixels)
        pixels[:, 0] = 1
        return Images(pixels, images.labels, images.names)

    natural = Trigger("paint", "recovered", TARGET, painted)
    opinion = FewFilters()(planted.model, planted_splits, natural, Run())
    assert opinion.follow >= 0.9


def test_a_change_that_nothing_serves_is_followed_by_all(planted: Planted, planted_splits: Splits) -> None:
    class Stubborn(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) * 0 + torch.tensor([1.0, 0.0, 0.0])

    model = Classifier(Stubborn(), planted.contract).eval()
    opinion = FewFilters()(model, planted_splits, planted.trigger, Run())
    assert (opinion.closed, opinion.follow) == (0, 1.0)


def test_where_nothing_is_closed_those_are_counted_who_follow_anyhow(
    planted: Planted, planted_splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_half(images: Images) -> Images:
        pixels = images.pixels.clone()
        pixels[::2] = planted.trigger(images).pixels[::2]
        return Images(pixels, images.labels, images.names)

    monkeypatch.setattr(GateSearch, "_cut", lambda *_: None)
    opinion = FewFilters()(planted.model, planted_splits, Trigger("half", "recovered", TARGET, on_half), Run())
    assert opinion.closed == 0
    assert opinion.follow == pytest.approx(0.5, abs=0.05)
