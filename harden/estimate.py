"""What a run would work on, how much memory it would take, and how long one pass over the images does."""

from __future__ import annotations

import time

from harden.plan import Plan
from harden.registry import find


def estimate(plan: Plan) -> list[str]:
    """Lines for --dry-run: the model is opened and run on a few random images, the folders are counted."""
    import torch

    from harden import stages
    from harden.counting import count_macs, count_parameters
    from harden.data import class_folders
    from harden.job import best_device
    from harden.network import classifier, predict

    method = find(plan.method, plan.method_settings)
    suspect = stages.open_suspect(plan)
    device = best_device() if plan.device == "auto" else plan.device
    model = classifier(suspect).to(device)
    size = suspect.contract.input_size
    folder = plan.need("clean_dir", "--clean-dir")
    count = sum(1 for name in class_folders(folder) for path in (folder / name).rglob("*") if path.is_file())
    pixels = torch.rand(min(64, max(1, count)), *size, device=device)
    predict(model, pixels)  # the first pass lays out memory
    begin = time.monotonic()
    predict(model, pixels)
    forward = (time.monotonic() - begin) * count / len(pixels)
    parameters = count_parameters(suspect.module)
    images = count * 4 * size[0] * size[1] * size[2]
    return [
        f"model: {parameters} parameters, {count_macs(suspect.module, size)} multiply-accumulates an image",
        f"method: {method.name}, {method.summary}",
        f"images: {count} files in {folder}, {images / 1e6:.0f} MB in memory",
        f"memory: at least {(3 * 4 * parameters + images) / 1e6:.0f} MB besides the libraries, on {device}",
        f"time: one forward pass over all of them takes {forward:.1f} s here; a run takes hundreds of passes, "
        f"{_minutes(100 * forward)} to {_minutes(3000 * forward)}, unless --time-budget ends it",
    ]


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
