"""What a run would work on, how much memory it would take, and about how long it would last.

    time = seconds of a forward pass per image * passes
    passes = 3 * images that the search for triggers looks at + EACH * images in --clean-dir

A backward pass costs two forward ones. What a scan does with the images besides searching is a look or two.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from harden.plan import Plan
from harden.registry import planned

if TYPE_CHECKING:
    from harden.network import Classifier
    from harden.types import Method

EACH = 300
"""Passes for each clean image in pruning and repair: `auto` on the bundled sample made 78 000 for 240 images."""
LOOKS = 10
"""The same for a scan, which only measures besides searching."""
TOGETHER = {"clean": 128, "scan": 32}
"""Images of the largest pass of `auto` that goes back through the network: relearning's, or a search's."""


def estimate(plan: Plan, verb: str = "clean") -> list[str]:
    """Lines for --dry-run: the model is opened and run on a few random images, the folders are counted."""
    from harden import stages
    from harden.counting import count_macs, count_outputs, count_parameters
    from harden.data import class_folders
    from harden.job import best_device
    from harden.network import classifier

    method = planned(plan)
    suspect = stages.open_suspect(plan)
    device = best_device() if plan.device == "auto" else plan.device
    model = classifier(suspect).to(device)
    size = suspect.contract.input_size
    folder = plan.need("clean_dir", "--clean-dir")
    count = sum(1 for name in class_folders(folder) for path in (folder / name).rglob("*") if path.is_file())
    known = (plan.trigger is not None or plan.trigger_dir is not None) and not plan.hide_trigger
    searched = 0 if known else searching(method, suspect.contract.num_classes)
    passes = 3 * searched + (EACH if verb == "clean" else LOOKS) * count
    parameters = count_parameters(suspect.module)
    passing = 4 * TOGETHER.get(verb, TOGETHER["clean"]) * count_outputs(suspect.module, size)
    images = count * 4 * size[0] * size[1] * size[2]
    return [
        f"model: {parameters} parameters, {count_macs(suspect.module, size)} multiply-accumulates an image",
        f"method: {method.name}, {method.summary}",
        f"images: {count} files in {folder}, {images / 1e6:.0f} MB in memory",
        f"memory: roughly {(3 * 4 * parameters + images + passing) / 1e6:.0f} MB besides the libraries, on {device}",
        f"time: about {about(seconds_per_image(model) * passes)} here, if nothing else runs; --time-budget bounds it",
    ]


def searching(method: Method, classes: int) -> int:
    """How many images the method's own search for triggers sends forward and back, whatever is in the folder."""
    from harden.triggers.patch import Patch
    from harden.triggers.smallest import SmallestChange

    search = method.recover
    if isinstance(search, SmallestChange):
        steps = search.searched(classes) * search.glance + search.compared * search.look
        return len(search.families) * steps * search.search.batch
    if isinstance(search, Patch):
        return classes * search.steps * search.images
    return 0


def seconds_per_image(model: Classifier, batch: int = 16, passes: int = 5) -> float:
    """Of a forward pass, at its best: what else runs on the machine can make a pass longer and never shorter."""
    import torch

    from harden.network import predict

    pixels = torch.rand(batch, *model.contract.input_size, device=model.mean.device)
    predict(model, pixels)  # the first pass lays out memory
    best = float("inf")
    for _ in range(passes):
        begin = time.perf_counter()
        predict(model, pixels).cpu()  # the copy waits for a GPU to be done
        best = min(best, time.perf_counter() - begin)
    return best / batch


def about(seconds: float) -> str:
    """As exact as a guess is: 40 s, 7 min, 3 h."""
    if seconds < 90:
        return f"{max(10, 10 * round(seconds / 10))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{round(seconds / 3600)} h"
