"""`--target-speedup` by itself: what a file gains and loses when a budget asks for more than the guilty filters.

    python -m benchmarks.budget              the clean twin of the sample, as if its scan had said clean
    python -m benchmarks.budget resnet18     torchvision's, random weights, 224x224; nothing relearns

The first is judged on the 480 images for verifying, which nothing here has read. Of the second only speed and seconds
mean anything: how long the search takes, and then the export and the comparison of the file with the network on 200
images. Seconds are those of the processor, which a busy machine does not stretch.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.export import untrained
from harden import stages
from harden.network import Classifier, classifier
from harden.plan import Plan
from harden.pruning.budget import Budget, shrink
from harden.pruning.guard import accuracy
from harden.registry import find
from harden.types import Attempt, Evidence, Proposal, Run
from harden_export.onnx_file import export_onnx
from harden_export.parity import measure_parity
from harden_export.runtime import OnnxModel

SAMPLES = Path(__file__).parent.parent / "samples"
WANTED = 1.5


def twin() -> None:
    """The sample without a backdoor, through the stage that `harden clean --target-speedup` runs."""
    plan = Plan(
        model=SAMPLES / "models" / "clean.pt",
        arch=f"{SAMPLES / 'network.py'}:sign_net",
        clean_dir=SAMPLES / "clean",
        verify_dir=SAMPLES / "verify",
        target_speedup=WANTED,
    )
    run, suspect = Run(), stages.open_suspect(plan)
    model, splits = classifier(suspect, run.cost), stages.read_splits(plan, suspect.contract, run)
    began = time.process_time()
    pruned = stages.prune(find("auto", {}), model, splits, Evidence("clean", (), (), ()), plan, run)
    took = time.process_time() - began
    smaller = Classifier(pruned.module, suspect.contract)
    before, after = accuracy(model, splits.verify), accuracy(smaller, splits.verify)
    assert pruned.budget is not None
    told(pruned.budget.attempts, pruned.budget.ended_by, took)
    print(f"on the images for verifying: {before.hits} -> {after.hits} of {after.total}")


def at_random(name: str, size: int = 224) -> None:
    """A network of random weights: how fast it can be made, and how long that takes."""
    model, splits = untrained(name, size)
    shape = model.contract.input_size
    began = time.process_time()
    found = shrink(model, Proposal(()), splits, Run(), Budget(speedup=WANTED, max_drop=1.0), lambda *_: None)
    searched = time.process_time()
    smaller = found.pruned.module.eval()
    told(found.attempts, found.ended_by, searched - began)
    verify: NDArray[np.float32] = np.random.default_rng(1).normal(size=(200, *shape)).astype(np.float32)

    @torch.no_grad()
    def reference(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = smaller(torch.from_numpy(batch)).numpy()
        return logits

    with TemporaryDirectory() as folder:
        began = time.process_time()
        file = export_onnx(smaller, Path(folder) / "model.onnx", input_size=shape, metadata={})
        exported = time.process_time()
        parity = measure_parity(reference, OnnxModel(file.path), verify, [str(i) for i in range(len(verify))])
    print(
        f"export {exported - began:.1f} s, parity {time.process_time() - exported:.1f} s: "
        f"{parity.max_relative:.1e} of the largest logit, same class on {parity.agree} of {parity.images}"
    )


def told(attempts: tuple[Attempt, ...], ended_by: str, took: float) -> None:
    """Every attempt, and which budget ended the search."""
    print("| of all filters | kB | times as fast | reached | right of those held back |\n|---|---|---|---|---|")
    for a in attempts:
        right = "" if a.accuracy is None else f"{a.accuracy.hits} of {a.accuracy.total}"
        speed = f"{a.speedup:.2f} (at least {a.speedup_low:.2f})"
        print(f"| {100 * a.share:.0f} % | {a.bytes / 1e3:.0f} | {speed} | {'yes' if a.reached else 'no'} | {right} |")
    print(f"{ended_by}; {took:.0f} s", flush=True)


if __name__ == "__main__":
    names = sys.argv[1:]
    for name in names:
        at_random(name)
    if not names:
        twin()
