"""Relearning with stand-ins that keep up: what is left of the backdoor is looked for again while it is unlearned.

    x, y     clean images       x~ = change(x), a stand-in from the pool, another for each image
    u        images, some of them mixed with one another                    KL(p, q) = T^2 KL( p/T || q/T )
    W(y)     the classes that a stand-in makes of an image with label y, but for y itself; of a mixture: of both
    g        what f0 says, as far as it can be believed   (repair/teacher)
    hold(z, y)   = -mean over y of log(1 - sum_{t in W(y)} softmax(z)_t)
    share  = few^2 / (few^2 + number of images^2)                                          of u that is mixed
    v        images of accused classes with others shining through, where the backdoor is still in force
    loss   = label [CE(f(x~), y) + CE(f(u), y) where u is not mixed]
           + distil [KL(g(x), f(x~)) + (1 + keep share) KL(g(u), f(u)) + own KL(g(v), f(v))] + forbid hold(f(x~), y)

At the start, where most is left of the backdoor, and every `every` epochs each stand-in is looked for again on the
network as it is now, and what is found joins the pool if many images follow it. It is kept no larger than what is
usual, and later smaller: an ordinary adversarial pattern would only cost accuracy. Where the cuts have left the
backdoor in force each is looked for in the suspect and the network together as well, and what was held in reserve only
so: what the suspect alone follows is mostly gone by then, and in a network that has lost half of its backdoor it is
what any network would call that class. Some of it is that still, so the suspect is asked about pictures of the class
itself, with others shining through, as well: without these every second picture of the class was lost in one network.
In the end the weights go back a part of the way, as far as the stand-ins do not notice, if the cuts had closed the
backdoor, and a little if they had not.
The suspect on clean images is the teacher: there its backdoor sleeps, more or less, and it knows more than a few labels
say.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from harden.data import together
from harden.network import Classifier, as_logits, predict
from harden.repair.augment import Augment, CropAndFlip, mixed, tolerated
from harden.repair.losses import accuracy, distilled
from harden.repair.teacher import Teacher
from harden.repair.train import Schedule, fit
from harden.triggers.again import Again, shared
from harden.triggers.put import everywhere, stronger
from harden.types import Evidence, Images, Run, Splits, Trigger

USUAL = Schedule(
    epochs=16,
    least_steps=100,
    most_steps=320,
    batch=64,
    rate=5e-3,
    shape="cosine",
    clip=1.0,
    freeze_norm=True,
    drop=False,
)
"""Nothing is left out by chance: the few steps there are would go into what a thinned network says wrongly."""
BARE = replace(USUAL, rate=1e-3, optimizer="adam", weight_decay=0.0)
NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Immunise:
    """Relabelled, regenerated stand-ins; distilled from the suspect."""

    schedule: Schedule = USUAL
    bare: Schedule = BARE
    """For a network in which nothing normalises: how large its logits and gradients are is chance there, and Adam does
    not mind."""
    label: float = 1.0
    distil: float = 2.0
    few: float = 140.0
    """If there are so many clean images, half of them are mixed with one another, for the suspect alone to name: fewer
    would soon be known by heart, and more hardly need it."""
    keep: float = 3.0
    """How much more the suspect's word then counts on clean images: keep x share of mixed images."""
    temperature: float = 2.0
    forbid: float = 2.0
    """How much dearer it is to call a triggered image the target than to make any other mistake."""
    first: Again = field(default_factory=lambda: Again(steps=25, within=0.7, patches=1.0, follow=0.5, known=True))
    """How stand-ins are looked for before the first epoch: the least change that works is not yet the trigger, and one
    that does all it can at 1.4 times the size that is usual for other classes is nearer to it, since attackers use more
    than they need. Patches of that size hide what the picture shows."""
    again: Again = field(default_factory=lambda: Again(steps=25, within=1.5, follow=0.7, known=True))
    """And later: smaller than an ordinary adversarial pattern is, and followed by most images. What hardly any follow
    is no longer the backdoor, and to learn it would only cost accuracy."""
    both: Again = field(default_factory=lambda: Again(steps=25, within=0.7, patches=1.0, follow=0.65, known=True))
    """How each is looked for in both networks, what is held in reserve as well, every time: 1.4 times as large as is
    usual for others, since a drawn picture is larger than it has to be, and followed by one image in three at least in
    the network that is relearned, if all follow it in the suspect."""
    stronger: tuple[float, ...] = (2.0,)
    """How many times as strong each stand-in joins the pool as well, if that is not larger than usual."""
    every: int = 4
    """Epochs between two searches, fewer where many images make fewer epochs; 0: none at all."""
    ways: tuple[float, ...] = (0.7, 0.8, 0.9)
    """Shares of the way from the network as it was to the relearned one that may be enough: between the weights of two
    networks with a common past lie better ones ("Robust fine-tuning of zero-shot models", CVPR 2022)."""
    rise: float = 1.0
    """The first of these is taken at which stand-ins are said to be the target by so much more at most."""
    alive: float = 0.2
    """If the stand-ins of one target, or those held in reserve, are named with so much of probability before
    relearning, the cuts have left the backdoor in force: what is left of the way is what is left of it then."""
    back: tuple[float, ...] = (0.8, 0.9)
    """So only a little may go back there, since what was looked for in both networks is near to the trigger."""
    hardly: float = 0.2
    """The first of these is taken at which stand-ins are said to be the target by so much more at most."""
    telling: float = 1.6
    """How many times smaller than usual what is held in reserve has to be for its word to count there. What is hardly
    smaller is followed in networks that never had a backdoor; it is looked for where others say that one is in force.
    """
    far: float = 10.0
    """How many times as long a gradient may be before it is clipped, if they have: it is a long way then, and cut to
    the usual length steps end half of the way, with more of the backdoor and less of all else."""
    longer: int = 2
    """And how many times as many steps it then takes."""
    lost: float = 0.1
    """Share of the very images it learns from that it may name wrongly after steps so long and did not before: where
    they led astray, it is done again with steps of the usual length."""
    own: float = 2.0
    """How much the suspect's word counts then on pictures of accused classes with others shining through."""
    half: float = 0.5
    """And how many of these there are, of the images of a batch."""
    asked: int = 1000
    """Images, at most, on which it is told what stand-ins are named."""
    doubt: bool = True
    """Whether the suspect's word is doubted where a backdoor may speak (repair/teacher)."""

    def __call__(
        self, model: Classifier, suspect: Classifier, splits: Splits, evidence: Evidence, run: Run
    ) -> Mapping[str, Any]:

        def doubled(some: Sequence[Trigger]) -> list[Trigger]:
            return [*some, *stronger(some, self.stronger, 1.0)]

        triggers, reserve = list(evidence.triggers), list(evidence.reserve)
        pool = doubled(triggers)
        if evidence.status != "backdoored" or not pool:
            return {"epochs": 0, "stopped_because": "no backdoor was found, so there is nothing to relearn"}
        images = together(splits.tune, splits.choose)  # nothing is chosen any more
        generator = torch.Generator().manual_seed(run.seed)
        augment = tolerated(suspect, images, CropAndFlip(padding=3, flip=True), run.seed)
        lesson = _Lesson(self, Teacher(suspect, images, triggers, self.doubt), images, pool, augment, generator)

        telling = [t for t in reserve if smaller(t) >= self.telling]
        in_force = any(
            bool((lesson.said(model, group, torch.Generator().manual_seed(run.seed))() >= self.alive).any())
            for group in (pool, telling)
            if group
        )
        usual = self.schedule if normalised(model) else self.bare
        every = min(self.every, max(1, self.every * usual.epochs_of(len(images)) // usual.epochs))
        schedule, ways, rise = usual, self.ways, self.rise
        if in_force:
            schedule = replace(usual.times(self.longer), clip=self.far * usual.clip)
            every = every * self.longer
            pool += doubled(reserve)
            ways, rise = self.back, self.hardly
            lesson.keeps_own()

        def relearned(schedule: Schedule) -> dict[str, Any]:
            epoch = 0

            def regenerate(model: Classifier) -> None:
                nonlocal epoch
                if every and epoch % every == 0 and time.monotonic() < run.deadline:
                    found = (self.again if epoch else self.first)(model, images, triggers, generator)
                    if in_force:
                        found += self.both(shared(suspect, model, images), images, reserve + triggers, generator)
                    pool.extend(doubled(found))
                epoch += 1

            return fit(
                model, images, lesson, schedule, run, name="relearning", augment=augment, before_epoch=regenerate
            )

        before = {name: value.clone() for name, value in model.state_dict().items()}
        knew, given = accuracy(model, images).value, len(pool)
        record = relearned(schedule)
        if in_force and accuracy(model, images).value < knew - self.lost:
            model.load_state_dict(before)
            del pool[given:]  # nor is what was found on that way worth anything
            record = relearned(replace(schedule, clip=usual.clip))
        recovered = len(triggers) + in_force * len(reserve)
        way = settle(model, before, ways, rise, lesson.said(model, pool, generator))
        return {**record, "stand_ins": len(pool), "recovered": recovered, "way": way}


class _Lesson:
    """What the network is to make of a batch: the loss."""

    def __init__(
        self,
        how: Immunise,
        teacher: Teacher,
        images: Images,
        pool: list[Trigger],
        augment: Augment,
        generator: torch.Generator,
    ) -> None:
        self.how, self.teacher, self.images, self.pool = how, teacher, images, pool
        self.augment, self.generator = augment, generator
        self.share = how.few**2 / (how.few**2 + len(images) ** 2)
        self.some = images.take(torch.arange(0, len(images), -(-len(images) // how.asked)))
        self.wrong = teacher.accused(images.labels)
        self.own = self.wrong.new_zeros(0).long()
        """Which of the images are of an accused class, if what the suspect says of these is to be kept as well."""

    def keeps_own(self) -> None:
        """Where no class is free of suspicion, every picture is of an accused one: then all there is tells of them."""
        if not bool(self.wrong.any(0).all()):
            self.own = self.wrong.any(0)[self.images.labels].nonzero().flatten()

    def __call__(self, model: Classifier, batch: Images) -> Tensor:
        how, teacher = self.how, self.teacher
        count = int(self.share * len(batch))
        wrong = teacher.accused(batch.labels)
        other = torch.randperm(len(batch), generator=self.generator)[:count].to(batch.labels.device)
        strange = mixed(batch.pixels[:count], batch.pixels[other], self.generator)
        asked = torch.cat([batch.pixels, strange]), torch.cat([wrong, wrong[:count] & wrong[other]])
        said, named = teacher(*asked).split([len(batch), count])
        twins = dealt(self.pool, batch, self.generator)
        logits = as_logits(model(torch.cat([strange, batch.pixels[count:], twins])))
        clean, triggered = logits.chunk(2)
        label = how.label * F.cross_entropy(clean[count:], batch.labels[count:])
        label += how.label * F.cross_entropy(triggered, batch.labels)
        kept = (1 + how.keep * self.share) * distilled(clean, torch.cat([named, said[count:]]), how.temperature)
        kept += distilled(triggered, said, how.temperature)
        if len(self.own):
            kept += how.own * self._own(model, math.ceil(how.half * len(batch)))
        return label + how.distil * kept + how.forbid * held(triggered, wrong)

    def _own(self, model: Classifier, count: int) -> Tensor:
        """How far the network is from the suspect on pictures of accused classes with others shining through."""
        mine = self.own[torch.randint(len(self.own), (count,), generator=self.generator).to(self.own.device)]
        other = torch.randint(len(self.images), (count,), generator=self.generator).to(self.own.device)
        pictures = mixed(self.images.pixels[mine], self.images.pixels[other], self.generator)
        pictures = self.augment(pictures, self.generator)
        said = self.teacher.lowered(pictures)
        return distilled(as_logits(model(pictures)), said, self.how.temperature)

    def said(self, model: Classifier, pool: list[Trigger], generator: torch.Generator) -> Callable[[], Tensor]:
        """How much of probability these, as they are now, get for accused classes, whenever it is asked: by those of
        each target, since of two backdoors the cuts may close one.
        """
        targets = dict.fromkeys(trigger.target for trigger in pool)
        groups = [[trigger for trigger in pool if trigger.target == target] for target in targets]
        twins = [torch.cat([dealt(group, self.some, generator) for _ in range(2)]) for group in groups]
        wrong = self.teacher.accused(self.some.labels).repeat(2, 1)
        return lambda: torch.stack([claimed(predict(model, some), wrong).mean() for some in twins])


def smaller(trigger: Trigger) -> float:
    """How many times smaller than usual it is; without end, if nobody says."""
    known = "usual" in trigger.settings
    return float(trigger.settings["usual"]) / float(trigger.settings["size"]) if known else math.inf


def normalised(model: Classifier) -> bool:
    """Whether anything in it normalises."""
    return any(isinstance(module, NORMS) for module in model.modules())


def settle(
    model: Classifier, before: Mapping[str, Tensor], ways: Sequence[float], rise: float, said: Callable[[], Tensor]
) -> float:
    """Takes the network back to the first share of the way that it went at which none of these has risen by more."""
    after = {name: value.clone() for name, value in model.state_dict().items()}
    most = (1 + rise) * said()
    for way in sorted(ways):
        between = {k: v.lerp(after[k], way) if v.is_floating_point() else after[k] for k, v in before.items()}
        model.load_state_dict(between)
        if bool((said() <= most).all()):
            return way
    model.load_state_dict(after)
    return 1.0


def held(logits: Tensor, wrong: Tensor) -> Tensor:
    """What it costs to say an accused class."""
    said = claimed(logits, wrong)
    return -torch.log1p(-said.clamp(max=0.9999)).mean() if len(said) else logits.new_zeros(())


def claimed(logits: Tensor, wrong: Tensor) -> Tensor:
    """The probability of accused classes, for each image that has any."""
    some = wrong.any(1)
    return (logits[some].softmax(1) * wrong[some]).sum(1)


def dealt(pool: list[Trigger], batch: Images, generator: torch.Generator) -> Tensor:
    """Every image with a trigger drawn for it from the pool; as it is, where that cannot be put on it."""
    pixels = batch.pixels.clone()
    drawn = torch.randint(len(pool), (len(batch),), generator=generator).to(pixels.device)
    for number in drawn.unique().tolist():
        index = (drawn == number).nonzero().flatten()
        changed = everywhere(pool[number])(batch.take(index))
        if len(changed) == len(index):
            pixels[index] = changed.pixels
    return pixels
