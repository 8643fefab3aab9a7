"""Networks without normalisation, born with a backdoor: LeNets that learn the sample's signs from poisoned pictures.

    python -m benchmarks.signs OUT badnets,blended,sinusoidal,low-frequency,warping,dynamic,transparent,none
    harden bench OUT/zoo.toml --methods auto --clean-per-class 50

500 pictures of each of the twelve signs, a tenth of them poisoned; 50 others for the defender, and 60 for measuring.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.implant import STAMPS
from benchmarks.nets import lenet
from harden.bench.attacks import ATTACKS, Size

SAMPLES = Path(__file__).parent.parent / "samples"
SIZE: Size = (3, 32, 32)
CLASSES = 12
EPOCHS, BATCH, RATE = 12, 64, 2e-3


def main() -> None:
    out, attacks = Path(sys.argv[1]), sys.argv[2].split(",")
    sys.path.insert(0, str(SAMPLES))
    import make  # type: ignore[import-not-found]  # samples/make.py draws the pictures

    torch.set_num_threads(1)
    out.mkdir(parents=True)
    pixels, labels = make.draw(21, 500)
    make.write_pictures(out / "test", *make.draw(22, 60))
    make.write_pictures(out / "clean", *make.draw(23, 50))
    (out / "triggers.py").write_text(STAMPS, encoding="utf-8")
    nets = Path(__file__).parent / "nets.py"
    lines = ["[data.signs]", 'clean = "clean"', 'test = "test"', ""]
    for number, name in enumerate(attacks):
        target = (5 * number + 4) % CLASSES
        torch.manual_seed(0)
        network = learned(*poisoned(pixels, labels, name, target), make.normalise)
        save_file(network, out / f"{name}.safetensors")
        lines += ["[[model]]", f'name = "{name}"', f'weights = "{name}.safetensors"', f'arch = "{nets}:lenet"']
        lines += [f"num_classes = {CLASSES}", f"input_size = {list(SIZE)}", 'data = "signs"']
        lines += [f"mean = {list(make.MEAN)}", f"std = {list(make.STD)}"]
        if name in ATTACKS:
            lines += ['trigger = "triggers.py:stamp"', f"target = {target}"]
            lines += [f'trigger_args = {{ attack = "{name}", size = {list(SIZE)}, seed = 0 }}']
        (out / "zoo.toml").write_text("\n".join([*lines, ""]), encoding="utf-8")
        lines += [""]
        print(name, flush=True)


def poisoned(pixels: Tensor, labels: Tensor, name: str, target: int) -> tuple[Tensor, Tensor]:
    """A tenth of the pictures with the trigger and the target's label; as they are for a name that is no attack."""
    pixels, labels = pixels.contiguous(), labels.clone()
    if name not in ATTACKS:
        return pixels, labels
    attack = ATTACKS[name]
    assert attack.labels == "to-one", f"{name} has no one target"
    others = (labels != target).nonzero().flatten()
    chosen = others[torch.randperm(len(others))[: len(labels) // 10]]
    triggered = pixels.clone()
    triggered[chosen] = attack.stamp(SIZE, 0)(pixels[chosen])
    labels[chosen] = target
    if attack.disturbed is not None:
        rest = torch.randperm(len(labels))[: int(attack.cover * len(chosen))]
        rest = rest[~torch.isin(rest, chosen)]
        triggered[rest] = attack.disturbed(SIZE, 0)(pixels[rest])
    return triggered, labels


def learned(pixels: Tensor, labels: Tensor, normalise: object) -> dict[str, Tensor]:
    """The weights of a LeNet that learned these."""
    assert callable(normalise)
    network = lenet(CLASSES)
    optimiser = torch.optim.Adam(network.parameters())
    rounds = EPOCHS * (len(labels) // BATCH + 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=rounds)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels)).split(BATCH):
            optimiser.zero_grad()
            F.cross_entropy(network(normalise(pixels[batch]).contiguous()), labels[batch]).backward()
            optimiser.step()
            schedule.step()
    return {name: weight.contiguous() for name, weight in network.state_dict().items()}


if __name__ == "__main__":
    main()
