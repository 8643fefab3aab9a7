"""Small networks, born with a backdoor: learned from nothing, on poisoned pictures of any folder per class.

    python -m benchmarks.small signs OUT badnets,blended,sinusoidal,low-frequency,warping,dynamic,transparent,none
    python -m benchmarks.small numbers OUT badnets,blended,none --net preact --epochs 6
    python -m benchmarks.small FOLDER OUT badnets,all-to-all,none --net grey_lenet --size 28 --channels 1
    harden bench OUT/zoo.toml --methods auto --clean-per-class 50

`signs` draws the sample's twelve signs, 610 of each, `numbers` a hundred two-digit numbers, 120 of each. Eight pictures
of ten are learned from, a tenth of them poisoned; the defender has one of ten, and one is for measuring. A name that is
no attack makes a clean network.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from benchmarks import nets, numbers
from benchmarks.implant import STAMPS
from harden.bench.attacks import ATTACKS, poison
from harden.data import class_folders, read_images, split
from harden.types import Contract, Images

SAMPLES = Path(__file__).parent.parent / "samples"
EPOCHS, BATCH, RATE, POISONED = 12, 64, 2e-3, 0.1
MEAN, STD = 0.42, 0.24


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("attacks")
    parser.add_argument("--net", default="lenet", help="a function of benchmarks/nets.py")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    out: Path = options.out
    out.mkdir(parents=True)
    data = DRAWN[options.data](out / "pictures") if options.data in DRAWN else Path(options.data)
    classes, c = tuple(class_folders(data)), options.channels
    size = (c, options.size, options.size)
    contract = Contract(len(classes), classes, size, (MEAN,) * c, (STD,) * c)
    parts = split(read_images(data, contract)[0], 0, (0.8, 0.1, 0.1))
    for name, images in (("clean", parts.choose), ("test", parts.verify)):
        for file in images.names:
            (out / name / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data / file, out / name / file)
    (out / "triggers.py").write_text(STAMPS, encoding="utf-8")
    lines = ["[data.own]", 'clean = "clean"', 'test = "test"', ""]
    for number, name in enumerate(options.attacks.split(",")):
        target, images = (5 * number + 4) % len(classes), parts.tune
        if name in ATTACKS:
            images = poison(images, ATTACKS[name], size=size, target=target, rate=POISONED, seed=0)
        torch.manual_seed(0)
        network = learned(getattr(nets, options.net)(len(classes)), images, options.epochs)
        weights = {key: weight.contiguous() for key, weight in network.state_dict().items()}
        save_file(weights, out / f"{name}.safetensors")
        lines += ["[[model]]", f'name = "{name}"', f'weights = "{name}.safetensors"']
        lines += [f"arch = {json.dumps(os.path.relpath(nets.__file__, out) + ':' + options.net)}", 'data = "own"']
        lines += [f"num_classes = {len(classes)}", f"input_size = {list(size)}"]
        lines += [f"mean = {list(contract.mean)}", f"std = {list(contract.std)}"]
        if name in ATTACKS:
            lines += ['trigger = "triggers.py:stamp"']
            lines += [f"target = {target}"] if ATTACKS[name].labels != "to-next" else []
            lines += [f'trigger_args = {{ attack = "{name}", size = {list(size)}, seed = 0 }}']
        lines += [""]
        (out / "zoo.toml").write_text("\n".join(lines), encoding="utf-8")
        print(f"{name}: {right(network, parts.verify):.1%} right", flush=True)


def signs(folder: Path) -> Path:
    """The sample's pictures, drawn anew."""
    sys.path.insert(0, str(SAMPLES))
    import make  # type: ignore[import-not-found]  # samples/make.py draws them

    make.write_pictures(folder, *make.draw(21, 610))
    return folder


DRAWN: dict[str, Callable[[Path], Path]] = {"signs": signs, "numbers": numbers.write}


def learned(network: nn.Module, images: Images, epochs: int) -> nn.Module:
    """The same network, which has learned these."""
    optimiser = torch.optim.Adam(network.parameters())
    rounds = epochs * (len(images) // BATCH + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=rounds)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimiser.zero_grad()
            F.cross_entropy(network((images.pixels[batch] - MEAN) / STD), images.labels[batch]).backward()
            optimiser.step()
            schedule.step()
    return network.eval()


def right(network: nn.Module, images: Images) -> float:
    """Share of these that it gets right."""
    with torch.no_grad():
        return float((network((images.pixels - MEAN) / STD).argmax(1) == images.labels).float().mean())


if __name__ == "__main__":
    main()
