"""How much louder than all others can a class be made, by any picture whatever? After MM-BD (arXiv 2205.06900).

    loud_k  = max over x in [0, 1] of  f_k(x) - max_{j != k} f_j(x)          from some clean pictures, by gradient
    score_k = loud_k / median over the other classes

A backdoor's filters shout, so that their class is heard over whatever else is in a picture; and unlike a small change,
shouting does not depend on what the trigger looks like. Implants into a finished network, and warps, hardly shout; a
harmless network's loudest class was 1.2 to 2.6 times as loud as usual. So this is a witness: it finds no trigger.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from harden.network import Classifier, as_logits
from harden.spread import Job, Tell, spread
from harden.types import ClassEvidence, Images, Run


@dataclass(frozen=True)
class LargestMargin:
    """Makes every class as loud as it can be."""

    images: int = 20
    steps: int = 60
    rate: float = 0.02
    """Of Adam, in pixels of [0, 1]."""
    threshold: float = 4.0
    """A class this many times as loud as usual has something that shouts for it."""

    def __call__(self, model: Classifier, images: Images, classes: Sequence[int], run: Run) -> list[ClassEvidence]:
        """For each of the classes; none where there is too little to compare with. The model asks for no gradients."""
        generator = torch.Generator().manual_seed(run.seed)
        some = images.take(torch.randperm(len(images), generator=generator)[: self.images])

        def job(k: int) -> Job[float]:
            return lambda mine, tell: self._loudest(mine, some, k, run, tell)

        with run.progress.task("listening how loud each class can be", len(classes) * self.steps) as task:
            loud = spread(model, [job(k) for k in classes], task)
        found = []
        for k, mine in zip(classes, loud, strict=True):
            others = sorted(other for j, other in zip(classes, loud, strict=True) if j != k)
            usual = others[len(others) // 2] if len(others) > 1 else 0.0
            if usual > 0:
                found.append(ClassEvidence(k, mine / usual, self.threshold, "margin"))
        return found

    def _loudest(self, model: Classifier, images: Images, k: int, run: Run, tell: Tell) -> float:
        pixels = images.pixels.clone().requires_grad_()
        optimizer = torch.optim.Adam([pixels], lr=self.rate)
        largest = -torch.inf
        for _ in range(self.steps):
            if time.monotonic() > run.deadline:
                break
            logits = as_logits(model(pixels))
            others = logits.index_fill(1, torch.tensor([k], device=logits.device), -torch.inf)
            margin = logits[:, k] - others.amax(1)
            largest = max(largest, float(margin.detach().max()))
            optimizer.zero_grad()
            (-margin.sum()).backward()
            optimizer.step()
            with torch.no_grad():
                pixels.clamp_(0, 1)
            tell(1, model.contract.classes[k])
        return largest
