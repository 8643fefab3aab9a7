"""Sizes, by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harden.counting import count_macs, count_outputs, count_parameters


class Small(nn.Module):
    """Every kind of layer that counts, and weight sharing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.same = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.same.weight = self.depth.weight
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(self.depth(self.norm(self.conv(x))))
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def test_parameters_are_counted_once() -> None:
    assert count_parameters(Small()) == 3 * 8 * 9 + 2 * 8 + 8 * 25 + 8 + 8 + 8 * 10 + 10


def test_macs_are_those_of_one_image() -> None:
    assert count_macs(Small(), (3, 8, 8)) == 16 * 8 * 27 + 2 * 16 * 8 * 25 + 80


def test_outputs_are_those_of_every_layer_for_one_image() -> None:
    assert count_outputs(Small(), (3, 8, 8)) == 4 * 8 * 4 * 4 + 10


def test_counting_leaves_the_network_alone() -> None:
    module = Small().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    count_macs(module, (3, 8, 8))
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
