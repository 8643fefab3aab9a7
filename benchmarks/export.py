"""Twelve architectures as ONNX files, a tenth of each layer's filters removed where the surgery allows: a row each.

    python -m benchmarks.export                        all of them, 64x64 pixels
    python -m benchmarks.export --size 224 resnet18    some of them, at another size

Random weights with randomised statistics and no accuracy guard, since there is no accuracy. 200 images go through the
pruned module in torch and through the file in ONNX Runtime, in batches of 1, 7 and 32. The speed-up is that of the
pruned file against the original one, one thread, one image, run in turns, with its 95 % interval. The seconds are those
of the processor, which a busy machine does not stretch.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.architectures import build, images, randomised
from harden.network import Classifier, units
from harden.pruning.surgery import operate
from harden.types import Contract, Filter, Proposal, Run, Splits
from harden_export.facts import file_facts
from harden_export.latency import measure_latency
from harden_export.onnx_file import export_onnx
from harden_export.parity import measure_parity
from harden_export.runtime import OnnxModel

NAMES = (
    "resnet18 mobilenet_v2 mobilenet_v3_small efficientnet_b0 vgg11_bn densenet121 squeezenet1_1 regnet_y_400mf "
    "shufflenet_v2_x1_0 googlenet mnasnet0_5 convnext_tiny"
)
COLUMNS = (
    "network", "filters gone", "parameters", "MACs", "export CPU s", "parity CPU s", "MB", "max abs", "max relative",
    "same class", "speed-up",
)  # fmt: skip
IMAGES = 200


def a_tenth(model: Classifier, seed: int = 0) -> tuple[Filter, ...]:
    """Of every layer, drawn at random."""
    draw = np.random.default_rng(seed)
    chosen = []
    for name, unit in units(model).items():
        indices = draw.permutation(unit.width)[: round(unit.width / 10)]
        chosen += [Filter(name, int(i)) for i in sorted(indices)]
    return tuple(chosen)


def untrained(name: str, size: int) -> tuple[Classifier, Splits]:
    """A network of random weights, and a few images of noise for it."""
    shape = (3, size, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = randomised(build(name))
    model = Classifier(module, Contract(10, tuple("0123456789"), shape, (0.5,) * 3, (0.25,) * 3))
    splits = Splits(images(4, size, 1), images(4, size, 2), images(4, size, 3))
    return model, splits


def row(name: str, size: int, folder: Path) -> dict[str, str]:
    """One network, from random weights to a measured file."""
    model, splits = untrained(name, size)
    module, shape = model.network, model.contract.input_size
    # Statistics estimated anew on four images of noise would only make the network ill-conditioned.
    pruned = operate(model, Proposal(a_tenth(model)), splits, Run(), max_accuracy_drop=1.0, renew_statistics=False)
    smaller = pruned.module.eval()

    began = time.process_time()
    file = export_onnx(smaller, folder / "pruned.onnx", input_size=shape, metadata={})
    exported = time.process_time()
    verify: NDArray[np.float32] = np.random.default_rng(1).normal(size=(IMAGES, *shape)).astype(np.float32)

    @torch.no_grad()
    def reference(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = smaller(torch.from_numpy(batch)).numpy()
        return logits

    parity = measure_parity(reference, OnnxModel(file.path), verify, [str(i) for i in range(IMAGES)])
    compared = time.process_time()
    original = export_onnx(module, folder / "original.onnx", input_size=shape, metadata={})
    _, speed = measure_latency({"original": original.path, "pruned": file.path}, batches=(1,), threads=(1,))
    before, after = file_facts(original.path), file_facts(file.path)
    return {
        "network": name,
        "filters gone": f"{len(pruned.removed)} of {pruned.filters_total}",
        "parameters": f"{100 * (after.parameters / before.parameters - 1):+.1f} %",
        "MACs": f"{100 * (after.macs / before.macs - 1):+.1f} %",
        "export CPU s": f"{exported - began:.1f}",
        "parity CPU s": f"{compared - exported:.1f}",
        "MB": f"{before.bytes / 1e6:.1f} → {after.bytes / 1e6:.1f}",
        "max abs": f"{parity.max_abs:.1e}",
        "max relative": f"{parity.max_relative:.1e}",
        "same class": f"{parity.agree} of {parity.images}",
        "speed-up": f"{speed.speedup:.2f} ({speed.speedup_low:.2f} to {speed.speedup_high:.2f})",
    }


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("names", nargs="*", default=NAMES.split())
    options.add_argument("--size", type=int, default=64)
    given = options.parse_args()
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for name in given.names:
        with TemporaryDirectory() as folder:
            found = row(name, given.size, Path(folder))
        print("| " + " | ".join(found[column] for column in COLUMNS) + " |", flush=True)


if __name__ == "__main__":
    main()
