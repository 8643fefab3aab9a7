"""A distribution of triggers: generators of patches that work, kept as varied as possible (MESA; BAERASE, 2201.09538).

    G: z ~ U(0, 1)^64  ->  a patch, plus noise N(0, 0.1^2), put at a random place of each image: x~
    minimise   -E min( softmax_t f(x~), beta ) - alpha * I(z; G(z))

I is the mutual information by a critic T (MINE):  E T(z, G(z)) - log E exp T(z', G(z)),  z' shuffled. The cap beta
keeps a generator from ending at the one strongest patch: each level of the staircase covers the patches that work that
well. Only an attacked class admits such patches at all, which is how the target is found.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harden.network import Classifier, as_logits, borrowed
from harden.triggers.attacked import attacked
from harden.types import ClassEvidence, Evidence, Images, Run, Splits, Task, Trigger

QUARTER = 16  # of the 64 numbers that a patch is made of, one quarter enters each layer


class Generator(nn.Module):
    """Four layers; each is fed another quarter of z."""

    def __init__(self, channels: int, size: int, hidden: int) -> None:
        super().__init__()
        self.shape = (channels, size, size)
        widths = [QUARTER, hidden + QUARTER, hidden + QUARTER, hidden + QUARTER]
        self.layers = nn.ModuleList(nn.Linear(w, hidden) for w in widths[:3])
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(3))
        self.last = nn.Linear(widths[3], channels * size * size)

    def forward(self, z: Tensor) -> Tensor:
        quarters = z.split(QUARTER, 1)
        x = quarters[0]
        for layer, norm, quarter in zip(self.layers, self.norms, quarters[1:], strict=True):
            x = torch.cat([F.leaky_relu(norm(layer(x)), 0.2), quarter], 1)
        patch: Tensor = torch.sigmoid(self.last(x)).view(-1, *self.shape)
        return patch


class Critic(nn.Module):
    """Says of a pair (z, patch) whether they belong together."""

    def __init__(self, values: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4 * QUARTER + values, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2),
            nn.Linear(hidden, 1),
        )  # fmt: skip

    def forward(self, z: Tensor, patch: Tensor) -> Tensor:
        score: Tensor = self.net(torch.cat([z, patch.flatten(1)], 1)).squeeze(1)
        return score


@dataclass(frozen=True)
class EntropyGenerator:
    """A short search for every class, then one generator for each level of the staircase."""

    betas: tuple[float, ...] = (0.5, 0.8, 0.9)
    size: int = 3
    """Of a patch, in pixels."""
    steps: int = 400
    """Of each generator of the staircase; 0 leaves them untrained."""
    probe_steps: int = 80
    """Of the search for each class."""
    batch: int = 64
    rate: float = 2e-3
    alpha: float = 0.1
    hidden: int = 256
    noise: float = 0.1
    threshold: float = 0.5
    """Success of generated patches on the split made for choosing that makes a class suspicious."""

    def __call__(self, model: Classifier, splits: Splits, run: Run) -> Evidence:
        classes, evidence = model.contract.num_classes, []
        with (
            borrowed(model),
            torch.random.fork_rng(),
            run.progress.task("generating triggers", classes * self.probe_steps + len(self.betas) * self.steps) as task,
        ):
            model.eval()
            for parameter in model.parameters():
                parameter.requires_grad_(False)
            for label in range(classes):
                probe = self._train(model, splits.tune, label, self.betas[0], self.probe_steps, run, task)
                evidence.append(self._weigh(model, splits.choose, self._trigger(probe, label, self.betas[0])))
            best = max(evidence, key=lambda e: e.score)
            if best.score < self.threshold:
                why = (
                    f"no class is reached by generated patches of {self.size}x{self.size}; larger triggers may be there"
                )
                return Evidence("inconclusive", (), tuple(evidence), (), why)
            triggers = tuple(
                self._trigger(
                    self._train(model, splits.tune, best.label, beta, self.steps, run, task), best.label, beta
                )
                for beta in self.betas
            )
        why = f"generated patches reach class {best.label} with {best.score:.0%}"
        return Evidence("backdoored", (best.label,), tuple(evidence), triggers, why)

    def _train(
        self, model: Classifier, images: Images, label: int, beta: float, steps: int, run: Run, task: Task
    ) -> Generator:
        """One generator for one class and one cap."""
        torch.manual_seed(run.seed)  # inside fork_rng: layers draw their first weights from the global generator
        g, device = torch.Generator().manual_seed(run.seed), model.mean.device
        generator = Generator(model.contract.input_size[0], self.size, self.hidden).to(device)
        critic = Critic(model.contract.input_size[0] * self.size**2, self.hidden).to(device)
        adam = torch.optim.Adam([*generator.parameters(), *critic.parameters()], self.rate, betas=(0.5, 0.999))
        others = images.pixels[images.labels != label]
        average = torch.ones((), device=device)
        for _ in range(steps):
            if time.monotonic() > run.deadline or not len(others):
                break
            x = others[torch.randint(len(others), (self.batch,), generator=g).to(others.device)]
            z = torch.rand(self.batch, 4 * QUARTER, generator=g).to(device)
            patch = generator(z)
            noisy = (patch + self.noise * torch.randn(patch.shape, generator=g).to(device)).clamp(0, 1)
            logits = as_logits(model(_paste(x, noisy, g)))
            reached = logits.softmax(1)[:, label].clamp(max=beta).mean()
            apart = critic(z[torch.randperm(self.batch, generator=g).to(device)], patch).exp().mean()
            average = (0.99 * average + 0.01 * apart).detach()
            # the gradient of log E exp T, with the moving average in the denominator: less biased in small batches
            information = critic(z, patch).mean() - apart / average
            adam.zero_grad()
            (-reached - self.alpha * information).backward()
            adam.step()
            task.advance(1, f"class {label}, beta {beta}")
        return generator.eval()

    def _trigger(self, generator: Generator, label: int, beta: float) -> Trigger:
        settings = {"kind": "generator", "beta": beta, "size": self.size, "steps": self.steps}
        return Trigger(f"generated patches, beta {beta}", "recovered", label, _stamping(generator), settings)

    def _weigh(self, model: Classifier, images: Images, trigger: Trigger) -> ClassEvidence:
        on = attacked([trigger], images)
        with torch.no_grad():
            said = torch.cat([model(part) for part in torch.split(on.images.pixels, 256)]).argmax(1)
        assert trigger.target is not None
        return ClassEvidence(trigger.target, on.success(said).value, self.threshold, "entropy-generator")


def _stamping(generator: Generator) -> Callable[[Images], Images]:
    """Each image gets a patch and a place of its own, the same each time: they are drawn from its name."""

    @torch.no_grad()
    def stamp(images: Images) -> Images:
        if not len(images):
            return images
        g, zs, places = torch.Generator(), [], []
        for name in images.names:
            g.manual_seed(zlib.crc32(name.encode()))
            zs.append(torch.rand(4 * QUARTER, generator=g))
            places.append(torch.rand(2, generator=g))
        patch = generator(torch.stack(zs).to(images.pixels.device))
        return Images(_put(images.pixels, patch, torch.stack(places)), images.labels, images.names)

    return stamp


def _paste(x: Tensor, patch: Tensor, g: torch.Generator) -> Tensor:
    return _put(x, patch, torch.rand(len(x), 2, generator=g))


def _put(x: Tensor, patch: Tensor, places: Tensor) -> Tensor:
    """Each patch on its image, at a place given in shares of the height and width that are free."""
    h, w, size = x.shape[2], x.shape[3], patch.shape[2]
    free = torch.tensor([h - size + 1, w - size + 1])
    corner = (places * free).long().clamp(max=free - 1).to(x.device)
    rows = torch.arange(h, device=x.device)[None] - corner[:, :1]  # (N, H): row of the patch, or outside of it
    columns = torch.arange(w, device=x.device)[None] - corner[:, 1:]
    inside = ((rows >= 0) & (rows < size))[:, :, None] & ((columns >= 0) & (columns < size))[:, None, :]
    image = torch.arange(len(x), device=x.device)[:, None, None]
    spread = patch.permute(0, 2, 3, 1)[image, rows.clamp(0, size - 1)[:, :, None], columns.clamp(0, size - 1)[:, None]]
    return torch.where(inside[:, None], spread.permute(0, 3, 1, 2), x)
