"""How far a network's word has moved from what it was, on pictures that nobody was trained on.

    u          pictures made of two clean ones, one shining through the other        f0, f  the network before and now
    apart(f) = mean over u of KL( softmax g(u) || softmax f(u) )                      g       f0, or who is believed

Accuracy on a handful of images moves in steps of a point or so, and hardly at all where the network was trained on
these very images. A mixture has no label, but the network before can be asked about it, as far as it can be believed:
one that gives mixtures the target of its backdoor is better left behind (repair/teacher).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from harden.network import Classifier, as_logits, predict
from harden.repair.augment import mixed
from harden.repair.teacher import Teacher
from harden.types import Images

ENOUGH = 256


def named(model: Classifier, images: Images, seed: int, count: int = ENOUGH) -> Images:
    """Such mixtures, each with a label drawn from what the network says of it: to it, they are as good as the truth."""
    pictures = Likeness(model, images, seed, count)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(pictures.said.exp().cpu(), 1, generator=generator).flatten().to(pictures.said.device)
    return Images(pictures.pixels, drawn, tuple(str(i) for i in range(len(drawn))))


class Likeness:
    """What a network says of some mixtures, to hold others against."""

    def __init__(
        self, model: Classifier, images: Images, seed: int, count: int = ENOUGH, teacher: Teacher | None = None
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        first, second = torch.randint(len(images), (2, count), generator=generator)
        self.pixels = mixed(images.take(first).pixels, images.take(second).pixels, generator)
        if teacher is None:
            said = as_logits(predict(model, self.pixels))
        else:
            wrong = teacher.accused(images.labels)
            said = teacher(self.pixels, wrong[first] & wrong[second])
        self.said = said.log_softmax(1)

    def apart(self, model: Classifier) -> float:
        """In nats; 0 for the network itself, where that is believed."""
        says = as_logits(predict(model, self.pixels)).log_softmax(1)
        return float(F.kl_div(says, self.said, reduction="batchmean", log_target=True))
