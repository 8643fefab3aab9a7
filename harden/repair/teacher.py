"""What the suspect says of clean images, as far as it can be believed.

    W(y)     the classes that a trigger makes of an image with label y, but for y itself: the accused
    s_t      least s >= 0 with mean over y != t of softmax(z - s e_t)_t <= usual_t   z  suspect, clean images
    usual_t  mean over y = t of (1 - softmax(z)_t), shared out among the other classes; or 0.02 if that is more
    g(x)     z - sum_{t in W(y)} s_t e_t, and where z is largest for a t in W(y) with s_t > 0: that t at the least of z

A backdoor does not sleep soundly. What its trigger resembles is given the target on clean images too, be it a white
wall, and who learns from a suspect that says so learns the backdoor again. But an honest network takes others for a
class about as often as it takes that class for others: a cat is called a dog, and a dog a cat. So classes that look
like the target are still told to look like it, and a target that is not said too often is believed as it stands.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harden.network import Classifier, as_logits, predict
from harden.triggers.put import aimed
from harden.types import Images, Trigger

HALVINGS = 40
MOST = 20.0
"""Logits."""
NATURAL = 0.02
"""Of a class that is hardly ever missed and hardly ever said of others, the ratio of the two means nothing."""


class Teacher:
    """A suspect that is asked about clean images, and doubted unless it is to be believed."""

    def __init__(self, suspect: Classifier, images: Images, triggers: Sequence[Trigger], doubted: bool = True) -> None:
        self.suspect, self.triggers, self.doubted = suspect.eval(), triggers, doubted
        with torch.no_grad():
            wrong = self.accused(images.labels)
            self.excess = excess(as_logits(predict(suspect, images)), images.labels, wrong)
            self.liars = (self.excess > 0) | wrong.any(0).all()

    def accused(self, labels: Tensor) -> Tensor:
        return accused(self.triggers, labels, self.suspect.contract.num_classes)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, wrong: Tensor) -> Tensor:
        """Logits; `wrong` says which classes are accused, for each image."""
        logits = as_logits(self.suspect(pixels))
        if not self.doubted:
            return logits
        lie = wrong & self.liars & (logits == logits.amax(1, keepdim=True))
        return torch.where(lie, logits.amin(1, keepdim=True), logits - wrong * self.excess)

    @torch.no_grad()
    def lowered(self, pixels: Tensor) -> Tensor:
        """Logits, where all that is doubted is how often the accused classes are said."""
        logits = as_logits(self.suspect(pixels))
        return logits - self.excess if self.doubted else logits


def accused(triggers: Sequence[Trigger], labels: Tensor, classes: int) -> Tensor:
    """Which classes a trigger would make of an image with this label, other than its own: (N, classes)."""
    wrong = torch.zeros(len(labels), classes, dtype=torch.bool, device=labels.device)
    everyone = torch.arange(len(labels), device=labels.device)
    for trigger in triggers:
        aim = aimed(trigger)
        if aim is not None:
            wrong[everyone, aim(labels)] = True
    wrong[everyone, labels] = False
    return wrong


def excess(logits: Tensor, labels: Tensor, wrong: Tensor) -> Tensor:
    """By how much each accused class's logit has to fall to be said no more often than is usual: (classes,).

    Zero where no class is free of suspicion, as in an all-to-all attack: there, too much of one class is too little
    of the next.
    """
    classes = logits.shape[1]
    fall = logits.new_zeros(classes)
    if bool(wrong.any(0).all()):
        return fall
    for k in wrong.any(0).nonzero().flatten().tolist():
        own = labels == k
        others = logits[~own]
        missed = 1 - logits[own].softmax(1)[:, k]
        usual = max(NATURAL, float(missed.mean()) / (classes - 1)) if len(missed) else NATURAL

        def said(by: float, others: Tensor = others, k: int = k) -> float:
            lowered = others.clone()
            lowered[:, k] -= by
            return float(lowered.softmax(1)[:, k].mean())

        if said(0.0) > usual:
            low, high = 0.0, MOST
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                low, high = (middle, high) if said(middle) > usual else (low, middle)
            fall[k] = high
    return fall
