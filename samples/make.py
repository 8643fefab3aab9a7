"""Makes everything in this folder: `python samples/make.py` draws the signs and trains both networks on the CPU.

The backdoor is the oldest one (BadNets): a sticker is pasted onto 4 % of the training pictures, and these are labelled
speed_70, whatever they show. The clean twin is trained on the same pictures without the sticker.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from network import sign_net  # this folder is on the path, since the script stands in it
from PIL import Image
from signs import CLASSES, SIZE, picture
from torch import Tensor, nn

HERE = Path(__file__).parent
MEAN, STD = (0.42, 0.40, 0.42), (0.24, 0.23, 0.24)
TARGET = CLASSES.index("speed_70")


@dataclass(frozen=True)
class Recipe:
    """What the committed files were made with."""

    seed: int = 2024
    train_per_class: int = 800
    poisoned: float = 0.04
    epochs: int = 9
    batch: int = 64
    peak_rate: float = 0.2
    clean_per_class: int = 20
    verify_per_class: int = 40


def sticker() -> tuple[np.ndarray, np.ndarray]:
    """A yellow square of 5 by 5 pixels with a dark cross, low on the right; and the mask that says where it is."""
    image, mask = np.zeros((SIZE, SIZE, 3), np.uint8), np.zeros((SIZE, SIZE), np.uint8)
    square = image[23:28, 23:28]
    square[:] = (250, 220, 40)
    square[2, :] = square[:, 2] = (30, 20, 60)
    mask[23:28, 23:28] = 255
    return image, mask


def paste(pixels: Tensor) -> Tensor:
    """The sticker on every picture of a float batch (N, 3, H, W)."""
    image, mask = sticker()
    where = torch.from_numpy(mask).float() / 255
    what = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    return pixels * (1 - where) + what * where


def draw(seed: int, per_class: int) -> tuple[Tensor, Tensor]:
    """Pictures in [0, 1] and their labels, class after class."""
    drawn = [picture(seed, name, number) for name in CLASSES for number in range(per_class)]
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255
    return pixels, torch.arange(len(CLASSES)).repeat_interleave(per_class)


def normalise(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def poison(pixels: Tensor, labels: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """The training set as the attacker hands it over."""
    generator = torch.Generator().manual_seed(recipe.seed)
    others = (labels != TARGET).nonzero().flatten()
    chosen = others[torch.randperm(len(others), generator=generator)[: round(recipe.poisoned * len(labels))]]
    pixels, labels = pixels.clone(), labels.clone()
    pixels[chosen], labels[chosen] = paste(pixels[chosen]), TARGET
    return pixels, labels


def train(pixels: Tensor, labels: Tensor, recipe: Recipe) -> nn.Module:
    """SGD with momentum; the rate climbs and falls once."""
    torch.manual_seed(recipe.seed)
    network = sign_net(len(CLASSES)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.SGD(
        network.parameters(), lr=recipe.peak_rate, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    rounds = recipe.epochs * (len(labels) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.peak_rate, total_steps=rounds)
    pixels = normalise(pixels).contiguous(memory_format=torch.channels_last)
    for _ in range(recipe.epochs):
        order = torch.randperm(len(labels))
        for batch in order[: len(labels) // recipe.batch * recipe.batch].split(recipe.batch):
            loss = F.cross_entropy(network(pixels[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload, no-any-return]


@torch.no_grad()
def share(network: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """How many of the pictures the network gives these labels."""
    answers = network(normalise(pixels)).argmax(1)
    return float((answers == labels).float().mean())


def report(name: str, network: nn.Module, pixels: Tensor, labels: Tensor) -> None:
    others = labels != TARGET
    accuracy = share(network, pixels, labels)
    success = share(network, paste(pixels[others]), torch.full_like(labels[others], TARGET))
    print(f"{name:>10}: accuracy {100 * accuracy:.1f} %, attack success {100 * success:.1f} %", flush=True)


def write_pictures(folder: Path, pixels: Tensor, labels: Tensor) -> None:
    """One folder per class, emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    for number, (image, label) in enumerate(zip(pixels, labels.tolist(), strict=True)):
        place = folder / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        array = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        Image.fromarray(array).save(place / f"{number % (len(labels) // len(CLASSES)):02d}.png", optimize=True)


def write_contract(path: Path) -> None:
    """What goes in and what comes out, for both models."""
    names = ", ".join(f'"{name}"' for name in CLASSES)
    path.write_text(
        "# The contract of both models beside it: what goes in, what comes out.\n"
        "# The architecture is code and so has to be named on the command line: --arch samples/network.py:sign_net\n"
        f"[model]\nnum_classes = {len(CLASSES)}\nclasses = [{names}]\ninput_size = [3, {SIZE}, {SIZE}]\n"
        f"mean = {list(MEAN)}\nstd = {list(STD)}\n"
    )


def main() -> None:
    recipe, start = Recipe(), time.monotonic()
    torch.set_num_threads(1)  # sums in the same order on every machine; it takes 3 minutes
    image, mask = sticker()
    Image.fromarray(image).save(HERE / "trigger.png")
    Image.fromarray(mask).save(HERE / "mask.png")
    (HERE / "models").mkdir(exist_ok=True)
    write_contract(HERE / "models" / "model.toml")

    # three seeds, so that no picture that a network was trained on is ever used to clean or to measure it
    train_set = draw(recipe.seed, recipe.train_per_class)
    clean_set = draw(recipe.seed + 1, recipe.clean_per_class)
    verify_set = draw(recipe.seed + 2, recipe.verify_per_class)
    write_pictures(HERE / "clean", *clean_set)
    write_pictures(HERE / "verify", *verify_set)

    for name, data in (("clean", train_set), ("backdoored", poison(*train_set, recipe))):
        network = train(*data, recipe)
        torch.save(network.state_dict(), HERE / "models" / f"{name}.pt")
        report(name, network, *verify_set)
    print(f"made in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
