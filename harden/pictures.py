"""Triggers as pictures: real images without and with each, the difference, and what the model said before and after."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from harden.network import Classifier, predict
from harden.outcome import Picture
from harden.types import Images, Trigger

FOLDER = "triggers"
MOST_TRIGGERS = 6
PER_TRIGGER = 4


def draw(
    triggers: Sequence[Trigger], images: Images, before: Classifier, after: Classifier, folder: Path
) -> tuple[Picture, ...]:
    """Writes the pictures into `folder`/triggers and says what is on them."""
    found: list[Picture] = []
    for number, trigger in enumerate(triggers[:MOST_TRIGGERS]):
        chosen = _examples(images, trigger)
        if not len(chosen):
            continue  # it can be put on none of these images, which its measurement says already
        triggered = trigger(chosen)
        clean = chosen.take(_places(chosen, triggered))
        said_before = predict(before, triggered).argmax(1).tolist()
        said_after = predict(after, triggered).argmax(1).tolist()
        stem = f"{number:02d}-{re.sub(r'[^A-Za-z0-9]+', '-', trigger.name)[:40].strip('-') or 'trigger'}"
        for i, name in enumerate(triggered.names):
            paths = [f"{FOLDER}/{stem}-{i}-{what}.png" for what in ("clean", "triggered", "difference")]
            pixels = clean.pixels[i], triggered.pixels[i], visible(triggered.pixels[i] - clean.pixels[i])
            for path, picture in zip(paths, pixels, strict=True):
                save(picture, folder / path)
            truth = int(triggered.labels[i])
            said = int(said_before[i]), int(said_after[i])
            found.append(Picture(trigger.name, trigger.source, name, paths[0], paths[1], paths[2], truth, *said))
    return tuple(found)


def _examples(images: Images, trigger: Trigger) -> Images:
    """The first image of each of a few other classes than the target, evenly chosen among those that it works on; or
    the first of one class, if that is the only one.
    """
    labels = [k for k in images.labels.unique().tolist() if k != trigger.target]
    each = [(images.labels == k).nonzero().flatten() for k in labels]
    works = [own for own in each if len(trigger(images.take(own[:1])))]
    if len(works) == 1 < len(each):
        return images.take(works[0][:PER_TRIGGER])
    first = [int(own[0]) for own in works[:: max(1, len(works) // PER_TRIGGER)][:PER_TRIGGER]]
    return images.take(torch.tensor(first, dtype=torch.long))


def _places(chosen: Images, triggered: Images) -> Tensor:
    """Where the clean image of each triggered one is: a trigger may leave images out."""
    return torch.tensor([chosen.names.index(name) for name in triggered.names], dtype=torch.long)


def visible(difference: Tensor) -> Tensor:
    """A difference of pixels on grey, as strong as it can be shown; none at all is plain grey."""
    strongest = float(difference.abs().max())
    return 0.5 + 0.5 * difference / strongest if strongest > 0 else torch.full_like(difference, 0.5)


def save(pixels: Tensor, path: Path) -> None:
    """Pixels (C, H, W) in [0, 1] as PNG, of one or three channels."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    values = (pixels.detach().cpu().clamp(0, 1) * 255).round().byte()
    to_image: Callable[..., Image.Image] = Image.fromarray
    picture = to_image(values[0].numpy()) if len(values) != 3 else to_image(values.permute(1, 2, 0).numpy())
    picture.save(path)
