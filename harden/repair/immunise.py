"""Relearning with stand-ins that keep up: what is left of the backdoor is looked for again while it is unlearned.

    x, y     clean images       x~ = change(x), a stand-in from the pool, another for each image       f0  the suspect
    say(z, x, y) = label CE(z, y) + distil T^2 KL( f0(x)/T || z/T )     both on x~ and on x, for f0 sees x alone
    loss   = say(f(x), x, y) + say(f(x~), x, y)

Every `every` epochs each family that was strange is searched again on the network as it is now, and what is found
joins the pool, as long as it is still strangely small: an ordinary adversarial pattern would only cost accuracy.
The suspect on clean images is the teacher: there its backdoor sleeps, and it knows more than a few labels say.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harden.network import Classifier, as_logits
from harden.repair.augment import CropAndFlip, tolerated
from harden.repair.train import Schedule, fit
from harden.triggers.families import Family
from harden.triggers.inversion import Search, ToClass, begin
from harden.triggers.smallest import as_trigger, default_families, searchable
from harden.types import Evidence, Images, Run, Splits, Trigger


@dataclass(frozen=True)
class Immunise:
    """Relabelled, regenerated stand-ins; distilled from the suspect."""

    schedule: Schedule = field(
        default_factory=lambda: Schedule(
            epochs=16, least_steps=100, batch=64, rate=5e-3, shape="cosine", clip=1.0, freeze_norm=True
        )
    )
    label: float = 1.0
    distil: float = 2.0
    temperature: float = 2.0
    families: tuple[Family, ...] = field(default_factory=default_families)
    search: Search = field(default_factory=Search)
    every: int = 4
    """Epochs between two searches."""
    steps: int = 30
    """Of each search."""
    strange: float = 1.5
    """How many times smaller than usual a new stand-in has to be."""

    def __call__(
        self, model: Classifier, suspect: Classifier, splits: Splits, evidence: Evidence, run: Run
    ) -> Mapping[str, Any]:
        pool = list(evidence.triggers)
        if evidence.status != "backdoored" or not pool:
            return {"epochs": 0, "stopped_because": "no backdoor was found, so there is nothing to relearn"}
        suspect.eval()
        generator = torch.Generator().manual_seed(run.seed)
        wanted = self._strange(evidence)
        epoch = 0

        def regenerate(model: Classifier) -> None:
            nonlocal epoch
            if epoch and self.every and epoch % self.every == 0 and time.monotonic() < run.deadline:
                pool.extend(self._again(model, splits.tune, wanted, generator))
            epoch += 1

        def loss(model: Classifier, batch: Images) -> Tensor:
            with torch.no_grad():
                teacher = as_logits(suspect(batch.pixels)) / self.temperature
                twins = dealt(pool, batch, generator)
            logits = as_logits(model(torch.cat([batch.pixels, twins])))
            return sum((self._say(part, teacher, batch.labels) for part in logits.chunk(2)), torch.zeros(()))

        record = fit(
            model,
            splits.tune,
            loss,
            self.schedule,
            run,
            name="relearning",
            augment=tolerated(suspect, splits.tune, CropAndFlip(padding=3, flip=True), run.seed),
            before_epoch=regenerate,
        )
        return {**record, "stand_ins": len(pool), "regenerated": len(pool) - len(evidence.triggers)}

    def _say(self, logits: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        t = self.temperature
        apart = F.kl_div((logits / t).log_softmax(1), teacher.softmax(1), reduction="batchmean")
        return self.label * F.cross_entropy(logits, labels) + self.distil * t * t * apart

    def _strange(self, evidence: Evidence) -> dict[tuple[str, int], float]:
        """What was strange, by family and class, and the usual size there."""
        return {
            (str(t.settings["family"]), t.target): float(t.settings["usual"])
            for t in evidence.triggers
            if t.target is not None and "usual" in t.settings
        }

    def _again(
        self, model: Classifier, images: Images, wanted: Mapping[tuple[str, int], float], generator: torch.Generator
    ) -> list[Trigger]:
        """New stand-ins against the network as it is now."""
        families = {family.name: family for family in self.families}
        copy = searchable(model, images)
        found = []
        for (name, label), usual in wanted.items():
            search = begin(copy, families[name], ToClass(label), images, self.search, generator)
            search.run(self.steps)
            if search.size() * self.strange <= usual:
                settings = {"size": search.size(), "usual": usual}
                found.append(as_trigger(families[name], label, search.result(), settings))
        return found


def dealt(pool: list[Trigger], batch: Images, generator: torch.Generator) -> Tensor:
    """Every image with a trigger drawn for it from the pool; as it is, where that cannot be put on it."""
    pixels = batch.pixels.clone()
    drawn = torch.randint(len(pool), (len(batch),), generator=generator).to(pixels.device)
    for number in drawn.unique().tolist():
        index = (drawn == number).nonzero().flatten()
        changed = pool[number](batch.take(index))
        if len(changed) == len(index):
            pixels[index] = changed.pixels
    return pixels
