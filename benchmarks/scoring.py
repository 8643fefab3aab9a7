"""What scoring and searching cost: python benchmarks/scoring.py [--quick] [--out FILE.md]

(a) one scoring round over N images  vs  the bare forward and backward pass over the same images
(b) a whole Grad-Prune search        vs  the published procedure, naively: per removed filter a gradient pass for
    every parameter, a full evaluation and a fresh copy of the model. Both must close the same filters, or it fails.
(c) the peak memory of a search      vs  3 models + the activations of one batch (what a bare forward and backward
    pass needs beyond the model and its gradients), each in a process of its own

Everything on one thread and interleaved. Times are CPU seconds of the process, which other programs on the machine
disturb less than the clock on the wall; of the repeats the median counts.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
import torchvision

from harden.network import Classifier, close, predict, units
from harden.pruning.greedy import Greedy, highest
from harden.scoring.folded import folded
from harden.scoring.gradient import UnlearningGradient, batch_for
from harden.types import Contract, Evidence, Filter, Images, Run, Splits, Trigger

SAMPLES = Path(__file__).parents[1] / "samples"
MEGABYTE = 2**20
CIFAR = (350, 125, 2000)
"""Images to tune, choose and verify: `harden bench` with 50 per class, and 2,000 to measure on. Published: 10,000."""
CORNER = 4  # pixels of the white square that stands for a trigger where a network is random


def main() -> None:
    """Measures all three and writes Markdown."""
    parser = argparse.ArgumentParser(description="What scoring and searching cost.")
    parser.add_argument("--quick", action="store_true", help="few repeats, few images, few rounds")
    parser.add_argument("--out", type=Path, help="write the tables there as well")
    quick = (arguments := parser.parse_args()).quick
    torch.set_num_threads(1)
    report = ""
    for lines in (searches(quick), rounds(3 if quick else 9, quick), memory()):
        print(table := "\n".join(lines) + "\n", flush=True)
        report += table + "\n"
    if arguments.out:
        arguments.out.write_text(report)


def interleaved(actions: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median CPU seconds of each, one after the other in every repeat, after a first run that does not count."""
    spent: list[list[float]] = [[] for _ in actions]
    for repeat in range(repeats + 1):
        for action, times in zip(actions, spent, strict=True):
            gc.collect()
            start = time.process_time()
            action()
            if repeat:
                times.append(time.process_time() - start)
    return [median(times) for times in spent]


# (a) one round


def rounds(repeats: int, quick: bool) -> list[str]:
    """Scoring against the bare forward and backward pass."""
    lines = [
        "| network | images | bare forward + backward, s | scoring round, s | ratio | without folding, s | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in ("resnet18", "mobilenet_v2"):
        for size, count in ((32, 128), (224, 8)) if quick else ((32, 256), (224, 32)):
            model, images = random_network(name, size), random_images(size, count)
            copy, parts = folded(model, images)
            own, score = units(model), UnlearningGradient()

            def bare(model: Classifier = model, images: Images = images) -> None:
                model.zero_grad()
                batch = batch_for(model.contract)
                for pixels, labels in zip(images.pixels.split(batch), images.labels.split(batch), strict=True):
                    F.cross_entropy(model(pixels), labels).backward()

            with_fold = lambda m=copy, p=parts, i=images, s=score: s(m, p, i, i)  # noqa: E731
            without = lambda m=model, p=own, i=images, s=score: s(m, p, i, i)  # noqa: E731
            a, b, c = interleaved([bare, with_fold, without], repeats)
            lines.append(
                f"| {name} {size}x{size} | {count} | {a:.2f} | {b:.2f} | **{b / a:.2f}** | {c:.2f} | {c / a:.2f} |"
            )
    return lines


def random_network(name: str, size: int, classes: int = 10) -> Classifier:
    """Random weights: what a pass costs does not depend on them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, num_classes=classes)
    contract = Contract(classes, tuple(map(str, range(classes))), (3, size, size), (0.5,) * 3, (0.25,) * 3)
    return Classifier(network, contract).eval()


def random_images(size: int, count: int, seed: int = 0, classes: int = 10) -> Images:
    pixels = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return Images(pixels, torch.arange(count) % classes, tuple(f"{seed}/{i}.png" for i in range(count)))


def corner(images: Images) -> Images:
    pixels = images.pixels.clone()
    pixels[:, :, -CORNER:, -CORNER:] = 1
    return Images(pixels, images.labels, images.names)


# (b) a whole search


@dataclass(frozen=True, eq=False)
class Case:
    """A model to search, and what to search it with."""

    name: str
    model: Classifier
    splits: Splits
    trigger: Trigger
    rounds: int | None = None


def searches(quick: bool) -> list[str]:
    """Whole searches, ours and naive, with and without the published code's logging on the test images."""
    lines = [
        "| model | images: tune, choose, verify | rounds | naive, s | without its test log, s | ours, s | faster |"
        " than without the log | same filters |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases(quick):
        evidence = Evidence("backdoored", (), (), (case.trigger,))
        greedy = Greedy(max_rounds=case.rounds)
        results: dict[str, tuple[tuple[Filter, ...], tuple[Filter, ...]]] = {}

        def ours(case: Case = case, evidence: Evidence = evidence, greedy: Greedy = greedy) -> None:
            found = greedy(case.model, case.splits, evidence, Run())
            results["ours"] = tuple(f for r in found.rounds for f in r.closed), found.guilty  # noqa: B023

        def logged(case: Case = case, greedy: Greedy = greedy) -> None:
            results["naive"] = naive(case, greedy, log=True)  # noqa: B023

        def unlogged(case: Case = case, greedy: Greedy = greedy) -> None:
            results["unlogged"] = naive(case, greedy, log=False)  # noqa: B023

        a, b, c = interleaved([logged, unlogged, ours], 1 if quick else 3)
        same = results["ours"] == results["naive"] == results["unlogged"]
        sizes = f"{len(case.splits.tune)}, {len(case.splits.choose)}, {len(case.splits.verify)}"
        lines.append(
            f"| {case.name} | {sizes} | {len(results['ours'][0])} | {a:.1f} | {b:.1f} | {c:.1f} | **{a / c:.1f}x** |"
            f" {b / c:.1f}x | {'yes' if same else 'NO'} |"
        )
        if not same:
            sys.exit("\n".join([*lines, f"{case.name}: different filters: {results}"]))
    return lines


def naive(case: Case, settings: Greedy, log: bool) -> tuple[tuple[Filter, ...], tuple[Filter, ...]]:
    """The published loop as it is written down: all filters in the order of closing, and those of the best round."""
    best = model = case.model.copy().eval()
    choose, tune = case.splits.choose, case.trigger(case.splits.tune)
    batch = batch_for(model.contract)
    alive = {n: torch.ones(u.width, dtype=torch.bool) for n, u in units(model).items()}
    order: list[Filter] = []
    right = first = int((predict(model, choose, batch).argmax(1) == choose.labels).sum())
    lowest, kept = unlearning_loss(model, case.trigger(choose), batch), 0
    while first - right < settings.max_accuracy_drop * len(choose) or not order:
        if len(order) - kept >= settings.patience or len(order) == settings.max_rounds:
            break
        model.zero_grad()
        for pixels, labels in zip(tune.pixels.split(batch), tune.labels.split(batch), strict=True):
            (F.cross_entropy(model(pixels), labels, reduction="sum") / len(tune)).backward()
        scores = {
            n: u.conv.weight.grad.abs().mean((1, 2, 3))
            for n, u in units(model).items()
            if u.conv.weight.grad is not None
        }
        found = highest(scores, alive)
        assert found is not None
        alive[found[0].layer][found[0].index] = False
        order.append(found[0])
        model = model.copy().eval()
        close(units(model), [found[0]])
        right = int((predict(model, choose, batch).argmax(1) == choose.labels).sum())
        loss = unlearning_loss(model, case.trigger(choose), batch)
        if log:
            predict(model, case.splits.verify, batch)
            predict(model, case.trigger(case.splits.verify), batch)
        if loss < lowest and first - right < settings.max_accuracy_drop * len(choose):
            lowest, kept, best = loss, len(order), deepcopy(model)
    del best
    return tuple(order), tuple(order[:kept])


def unlearning_loss(model: Classifier, triggered: Images, batch: int) -> float:
    return float(F.cross_entropy(predict(model, triggered, batch), triggered.labels))


def cases(quick: bool) -> list[Case]:
    """The backdoored sample with its own trigger to the end, and a large random network for some rounds."""
    found = []
    for name, size in (("resnet18", 32), ("mobilenet_v2", 32)):
        model = random_network(name, size)
        tune, choose, verify = (random_images(size, count, seed) for seed, count in enumerate(CIFAR))
        splits = Splits(tune, choose, verify)
        trigger = Trigger("corner", "given", 0, corner)
        found.append(Case(f"{name} {size}x{size}, random", model, splits, trigger, 6 if quick else 12))
    return [*sample(), *found]


def sample() -> list[Case]:
    """The sample of this repository, split and triggered as the command line does it."""
    from harden.data import read_samples
    from harden.loading import load
    from harden.triggers.given import from_picture

    file = SAMPLES / "models" / "backdoored.pt"
    if not file.is_file():
        return []
    suspect = load(file, arch=f"{SAMPLES / 'network.py'}:sign_net", contract_file=SAMPLES / "models" / "model.toml")
    splits = read_samples(SAMPLES / "clean", suspect.contract, 0, verify_dir=SAMPLES / "verify")
    target = suspect.contract.classes.index("speed_70")
    trigger = from_picture(SAMPLES / "trigger.png", SAMPLES / "mask.png", 1.0, target, suspect.contract)
    return [Case("the sample", Classifier(suspect.module, suspect.contract).eval(), splits, trigger)]


# (c) memory


def memory() -> list[str]:
    """Peak resident memory of a search, above what the process had before it made the model, the images apart."""
    lines = [
        "| network | model, MB | one batch's activations, MB | 3 models + activations, MB | search, MB | within |",
        "|---|---|---|---|---|---|",
    ]
    for name, size in (("resnet18", 32), ("resnet18", 224), ("mobilenet_v2", 224)):
        weights = sum(t.numel() * t.element_size() for t in random_network(name, size).state_dict().values()) / MEGABYTE
        bare, search = alone(bare_batch, name, size), alone(short_search, name, size)
        activations = bare - 2 * weights  # less the model and its gradients
        allowed = 3 * weights + activations
        lines.append(
            f"| {name} {size}x{size} | {weights:.0f} | {activations:.0f} | {allowed:.0f} | {search:.0f} |"
            f" {'yes' if search <= allowed else 'NO'} |"
        )
    return lines


def alone(action: Callable[[str, int], Callable[[], None]], name: str, size: int) -> float:
    """Megabytes at the peak, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (action, name, size))


def _peak(action: Callable[[str, int], Callable[[], None]], name: str, size: int) -> float:
    torch.set_num_threads(1)
    action("squeezenet1_1", 32)()  # libraries and their buffers are not the search's
    measured = action(name, size)  # nor are the clean images
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten, see proc(5)
    before = _status("VmRSS")
    measured()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    """Megabytes, as Linux counts them."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def bare_batch(name: str, size: int) -> Callable[[], None]:
    """A model, and one batch forward and backward."""
    images = random_images(size, batch_for(random_network(name, size).contract))

    def measured() -> None:
        F.cross_entropy(random_network(name, size)(images.pixels), images.labels).backward()

    return measured


def short_search(name: str, size: int) -> Callable[[], None]:
    """A model, and a search on two batches of images; their triggered twins are on the search's account."""
    count = 2 * batch_for(random_network(name, size).contract)
    splits = Splits(random_images(size, count), random_images(size, count // 2, 1), random_images(size, 1, 2))

    def measured() -> None:
        evidence = Evidence("backdoored", (0,), (), (Trigger("corner", "given", 0, corner),))
        Greedy(max_rounds=2)(random_network(name, size), splits, evidence, Run())

    return measured


if __name__ == "__main__":
    main()
