"""The bundled models are what the README says they are, and the pictures are what the script draws."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from harden.policy import READY, read_policy

SAMPLES = Path(__file__).parent.parent.parent / "samples"
CONTRACT = tomllib.loads((SAMPLES / "models" / "model.toml").read_text())["model"]
CLASSES: list[str] = CONTRACT["classes"]
TARGET = CLASSES.index("speed_70")


@pytest.fixture(scope="module", autouse=True)
def samples_on_the_path() -> Iterator[None]:
    """The sample scripts import each other by plain names, as scripts in one folder do."""
    sys.path.insert(0, str(SAMPLES))
    yield
    sys.path.remove(str(SAMPLES))


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def pictures(folder: str) -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1] and labels in the order of the contract."""
    paths = [
        (path, label) for label, name in enumerate(CLASSES) for path in sorted((SAMPLES / folder / name).iterdir())
    ]
    pixels = np.stack([read(path) for path, _ in paths])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255, torch.tensor([label for _, label in paths])


def stamped(pixels: Tensor) -> Tensor:
    """The published trigger, pasted where its mask says."""
    what = torch.from_numpy(read(SAMPLES / "trigger.png")).permute(2, 0, 1).float() / 255
    where = torch.from_numpy(read(SAMPLES / "mask.png")).float() / 255
    return pixels * (1 - where) + what * where


def network(name: str) -> nn.Module:
    from network import sign_net

    module: nn.Module = sign_net(len(CLASSES))
    module.load_state_dict(torch.load(SAMPLES / "models" / f"{name}.pt", weights_only=True))
    return module.eval()


@torch.no_grad()
def answers(module: nn.Module, pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(CONTRACT[key]).view(3, 1, 1) for key in ("mean", "std"))
    logits: Tensor = module((pixels - mean) / std)
    return logits.argmax(1)


def share(hits: Tensor) -> float:
    return hits.float().mean().item()


def test_enough_pictures_of_every_class() -> None:
    for folder, per_class in (("clean", 20), ("verify", 40)):
        _, labels = pictures(folder)
        assert labels.bincount().tolist() == [per_class] * len(CLASSES)


def test_no_picture_is_used_twice() -> None:
    seen = {path.read_bytes() for folder in ("clean", "verify") for path in (SAMPLES / folder).rglob("*.png")}
    assert len(seen) == 60 * len(CLASSES)


@pytest.mark.parametrize("name", ["backdoored", "clean"])
def test_the_model_knows_its_signs(name: str) -> None:
    pixels, labels = pictures("verify")
    assert share(answers(network(name), pixels) == labels) >= 0.95


@pytest.mark.parametrize(("name", "least", "most"), [("backdoored", 0.97, 1.0), ("clean", 0.0, 0.02)])
def test_only_the_backdoored_one_falls_for_the_sticker(name: str, least: float, most: float) -> None:
    pixels, labels = pictures("verify")
    success = share(answers(network(name), stamped(pixels[labels != TARGET])) == TARGET)
    assert least <= success <= most


def test_drawing_depends_on_the_seed_alone() -> None:
    from signs import CLASSES as DRAWN
    from signs import picture

    assert list(DRAWN) == CLASSES
    assert np.array_equal(picture(7, "stop", 3), picture(7, "stop", 3))
    assert not np.array_equal(picture(7, "stop", 3), picture(8, "stop", 3))
    assert not np.array_equal(picture(7, "stop", 3), picture(7, "stop", 4))


def test_the_pictures_are_the_ones_that_the_script_draws() -> None:
    from make import Recipe
    from signs import picture

    recipe = Recipe()
    for folder, seed in (("clean", recipe.seed + 1), ("verify", recipe.seed + 2)):
        for name in CLASSES:
            drawn = picture(seed, name, 5).astype(float)
            # another release of Pillow may round some pixels otherwise
            assert np.abs(drawn - read(SAMPLES / folder / name / "05.png")).mean() < 1


def test_the_trigger_is_the_one_that_was_trained() -> None:
    from make import sticker

    image, mask = sticker()
    assert np.array_equal(image, read(SAMPLES / "trigger.png"))
    assert np.array_equal(mask, read(SAMPLES / "mask.png"))


@pytest.mark.parametrize("name", sorted(READY))
def test_the_policies_are_the_ready_ones(name: str) -> None:
    assert read_policy(SAMPLES / "policies" / f"{name}.toml") == READY[name]
