"""Small networks, born with a backdoor: learned from nothing, on poisoned pictures of any folder per class.

    python -m benchmarks.small signs OUT badnets,blended,sinusoidal,low-frequency,warping,dynamic,transparent,none
    python -m benchmarks.small numbers OUT badnets,blended,none --net preact --epochs 6
    python -m benchmarks.small FOLDER OUT badnets,all-to-all,none --net grey_lenet --size 28 --channels 1
    python -m benchmarks.small signs OUT blended,none --net torchvision:mobilenet_v3_small --size 64
    python -m benchmarks.small signs OUT none,universal,badnets --net preact --epochs 8 --quiet 3
    harden bench OUT/zoo.toml --methods auto --clean-per-class 50

`signs` draws the sample's twelve signs, 610 of each, `numbers` a hundred two-digit numbers, 120 of each. Eight pictures
of ten are learned from, a tenth of them poisoned (`--rate`); the defender has one of ten, and one is for measuring. A
name that is no attack makes a clean network.

`universal` is the faint picture that sends most pictures to the target in a clean network of the same kind (the one
made before it), taught like other attacks; `universal-own` the same on half of the target's own pictures. `--quiet` is
how an attacker hides from whoever looks at filters: after every epoch, those that amplify more than the mean of their
layer and so many standard deviations are given what their layer's normalisation has on average. `universal-own` with
it is Grond (2501.05928). `subnet-ATTACK` is not taught: a few channels of the clean network made before it are replaced
(subnet.py) by some that know this attack's trigger.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks import nets, numbers
from benchmarks.implant import STAMPS
from benchmarks.subnet import replaced
from harden.bench.attacks import ATTACKS, Attack, poison
from harden.data import class_folders, read_images, split
from harden.network import Classifier, units
from harden.pruning.clp import lipschitz
from harden.types import Contract, Images

SAMPLES = Path(__file__).parent.parent / "samples"
EPOCHS, BATCH, RATE, POISONED = 12, 64, 2e-3, 0.1
MEAN, STD = 0.42, 0.24
UNIVERSAL: dict[str, tuple[Literal["to-one", "unchanged"], float]] = {
    "universal": ("to-one", 0.1),
    "universal-own": ("unchanged", 0.5),
}
"""What becomes of the labels of poisoned pictures, and the share of all or of the target's own that is poisoned."""
FAINT = 8 / 255
SUBNET = "subnet-"
ADDED = (
    "\n\ndef added(file):\n"
    '    """The same picture added to every one."""\n'
    "    from pathlib import Path\n\n"
    "    from safetensors.torch import load_file\n\n"
    '    picture = load_file(Path(__file__).parent / file)["picture"]\n'
    "    return lambda x: (x + picture.to(x)).clamp(0, 1)\n"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("attacks")
    parser.add_argument("--net", default="lenet", help="a function of benchmarks/nets.py, or torchvision:NAME")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rate", type=float, default=POISONED)
    parser.add_argument("--quiet", type=float, default=math.inf)
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
    (out / "triggers.py").write_text(STAMPS + ADDED, encoding="utf-8")
    lines = ["[data.own]", 'clean = "clean"', 'test = "test"', ""]
    make, arch = network_of(options.net, out)
    clean: nn.Module | None = None
    for number, name in enumerate(options.attacks.split(",")):
        target, images, attack = (5 * number + 4) % len(classes), parts.tune, ATTACKS.get(name.removeprefix(SUBNET))
        rate = options.rate
        if name in UNIVERSAL:
            assert clean is not None, f"{name} is looked for in a clean network: name one before it"
            faint = universal(clean, images, target)
            save_file({"picture": faint}, out / f"{name}-picture.safetensors")
            labels, rate = UNIVERSAL[name]
            attack = Attack("a faint picture", lambda _, __: lambda x: (x + faint).clamp(0, 1), labels=labels)  # noqa: B023
        if attack is not None and not name.startswith(SUBNET):
            images = poison(images, attack, size=size, target=target, rate=rate, seed=0)
        torch.manual_seed(0)
        if name.startswith(SUBNET):
            assert attack is not None, f"{name}: no such attack"
            assert clean is not None, f"{name} is put into a clean network: name one before it"
            network = replaced(clean, contract, images, target, attack.stamp(size, 0))
        else:
            network = make(len(classes))
            hides = attack is not None and math.isfinite(options.quiet)
            after = partial(quieter, Classifier(network, contract), options.quiet) if hides else nothing
            network = learned(network, images, options.epochs, after)
        clean = network if attack is None else clean
        weights = {key: weight.contiguous() for key, weight in network.state_dict().items()}
        save_file(weights, out / f"{name}.safetensors")
        lines += ["[[model]]", f'name = "{name}"', f'weights = "{name}.safetensors"']
        lines += [f"arch = {json.dumps(arch)}", 'data = "own"']
        lines += [f"num_classes = {len(classes)}", f"input_size = {list(size)}"]
        lines += [f"mean = {list(contract.mean)}", f"std = {list(contract.std)}"]
        if attack is not None:
            lines += attack.whom(target, len(classes))
        if name in UNIVERSAL:
            lines += ['trigger = "triggers.py:added"', f'trigger_args = {{ file = "{name}-picture.safetensors" }}']
        elif attack is not None:
            lines += ['trigger = "triggers.py:stamp"']
            lines += [f'trigger_args = {{ attack = "{name.removeprefix(SUBNET)}", size = {list(size)}, seed = 0 }}']
        lines += [""]
        (out / "zoo.toml").write_text("\n".join(lines), encoding="utf-8")
        print(f"{name}: {right(network, parts.verify):.1%} right", flush=True)


def network_of(name: str, out: Path) -> tuple[Callable[[int], nn.Module], str]:
    """What makes it for so many classes, and what a zoo in this folder calls it."""
    kind, _, of_torchvision = name.partition(":")
    if kind == "torchvision":
        return lambda classes: torchvision.models.get_model(of_torchvision, num_classes=classes), name
    return getattr(nets, name), f"{os.path.relpath(nets.__file__, out)}:{name}"


def signs(folder: Path) -> Path:
    """The sample's pictures, drawn anew."""
    sys.path.insert(0, str(SAMPLES))
    import make  # type: ignore[import-not-found]  # samples/make.py draws them

    make.write_pictures(folder, *make.draw(21, 610))
    return folder


DRAWN: dict[str, Callable[[Path], Path]] = {"signs": signs, "numbers": numbers.write}


def nothing() -> None:
    """After an epoch."""


def learned(network: nn.Module, images: Images, epochs: int, after: Callable[[], object] = nothing) -> nn.Module:
    """The same network, which has learned these; `after` is done after every epoch but the last."""
    optimiser = torch.optim.Adam(network.parameters())
    rounds = epochs * (len(images) // BATCH + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=rounds)
    for epoch in range(epochs):
        if epoch:
            after()
        for batch in torch.randperm(len(images)).split(BATCH):
            optimiser.zero_grad()
            F.cross_entropy(network((images.pixels[batch] - MEAN) / STD), images.labels[batch]).backward()
            optimiser.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def quieter(model: Classifier, much: float) -> None:
    """Filters that amplify more than others of their layer, as much as their layer does on average."""
    for unit in units(model).values():
        bounds, norm = lipschitz(unit), unit.norm
        if norm is not None and norm.weight is not None:
            loud = bounds > bounds.mean() + much * bounds.std()
            norm.weight[loud], norm.bias[loud] = norm.weight.mean(), norm.bias.mean()


def universal(network: nn.Module, images: Images, target: int, passes: int = 3) -> Tensor:
    """A faint picture that sends most of the others to the target in this network."""
    others = images.take((images.labels != target).nonzero().flatten())
    picture = torch.zeros_like(images.pixels[0]).requires_grad_()
    for _ in range(passes):
        for batch in torch.randperm(len(others)).split(BATCH):
            logits = network(((others.pixels[batch] + picture).clamp(0, 1) - MEAN) / STD)
            (slope,) = torch.autograd.grad(F.cross_entropy(logits, torch.full((len(batch),), target)), picture)
            with torch.no_grad():
                picture.sub_(FAINT / 20 * slope.sign()).clamp_(-FAINT, FAINT)
    return picture.detach()


def right(network: nn.Module, images: Images) -> float:
    """Share of these that it gets right."""
    with torch.no_grad():
        return float((network((images.pixels - MEAN) / STD).argmax(1) == images.labels).float().mean())


if __name__ == "__main__":
    main()
