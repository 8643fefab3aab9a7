"""The pictures of a trigger: of classes that it works on."""

from __future__ import annotations

from pathlib import Path

import torch

from harden.network import Classifier
from harden.pictures import PER_TRIGGER, draw
from harden.triggers.put import Put
from harden.types import Contract, Images, Trigger

CONTRACT = Contract(6, tuple("abcdef"), (3, 8, 8), (0.0,) * 3, (1.0,) * 3)
IMAGES = Images(
    torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    torch.arange(6).repeat_interleave(10),
    tuple(f"{i:02d}.png" for i in range(60)),
)


class White:
    """All white."""

    parameters: list[torch.Tensor] = []  # noqa: RUF012

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(pixels)

    def size(self) -> torch.Tensor:
        return torch.tensor(1.0)

    def scaled(self, factor: float) -> None:
        assert factor


def drawn(of: int | None, folder: Path) -> list[tuple[str, int]]:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 6))
    model = Classifier(network, CONTRACT).eval()
    found = draw([Trigger("white", "recovered", 2, Put(White(), of))], IMAGES, model, model, folder)
    assert all((folder / p.triggered).is_file() for p in found)
    return [(p.image, p.truth) for p in found]


def test_other_classes_than_the_target_are_shown(tmp_path: Path) -> None:
    assert [label for _, label in drawn(None, tmp_path)] == [0, 1, 3, 4]


def test_a_trigger_of_one_class_is_shown_on_images_of_that_class(tmp_path: Path) -> None:
    assert drawn(4, tmp_path) == [(f"{i}.png", 4) for i in range(40, 40 + PER_TRIGGER)]
