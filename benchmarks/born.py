"""Other architectures, born with a backdoor: small networks taught by a zoo's clean one while they are poisoned.

    python -m benchmarks.born ZOO.toml TEACHER OUT --make benchmarks/nets.py:mobile=badnets ...
    harden bench OUT/zoo.toml --methods auto --clean-per-class 50

An implant (benchmarks/implant.py) sits in a network that was whole before. Here the backdoor grows with everything
else, in networks of another kind. There are few images to learn from: the zoo's clean ones and one half of its test
images, as they are and mixed with one another, which the teacher names. The other half is for measuring; the defender
has images that the network has seen, as with most published models.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.implant import STAMPS, data_lines, entry
from harden.bench.attacks import Attack, find
from harden.bench.cell import suspect_of
from harden.bench.zoo import read_zoo
from harden.data import read_images, split, together
from harden.loading.architecture import architecture, build
from harden.measure import measure
from harden.network import Classifier, as_logits, classifier
from harden.repair.augment import CropAndFlip, mixed
from harden.repair.losses import distilled
from harden.repair.train import Schedule, fit
from harden.types import Images, Run

SCHEDULE = Schedule(epochs=50, batch=128, rate=0.1, shape="cosine", clip=5.0)
POISONED = 8
"""One image of so many."""
NOTHING = "none"
"""In place of an attack: a clean control."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("teacher")
    parser.add_argument("out", type=Path)
    parser.add_argument("--make", action="append", required=True, metavar="FILE.py:FUNCTION=ATTACK, or =none")
    parser.add_argument("--rate", type=float, default=SCHEDULE.rate)
    parser.add_argument("--epochs", type=int, default=SCHEDULE.epochs)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    control = {model.name: model for model in read_zoo(options.zoo)}[options.teacher]
    schedule = replace(SCHEDULE, rate=options.rate, epochs=options.epochs)
    teacher = classifier(suspect_of(control, "cpu"))
    out: Path = options.out
    out.mkdir(parents=True)
    (out / "triggers.py").write_text(STAMPS, encoding="utf-8")
    halves = split(read_images(control.data.test, teacher.contract)[0], options.seed, (0.5, 0.0, 0.5))
    learned, measured = together(read_images(control.data.clean, teacher.contract)[0], halves.tune), halves.verify
    lines = data_lines(control.data, measured, out)
    for number, made in enumerate(options.make):
        arch, _, attack = made.rpartition("=")
        arch = f"{Path(arch.rpartition(':')[0]).resolve()}:{arch.rpartition(':')[2]}"
        name = f"{arch.rpartition(':')[2]}-{attack}"
        target = (3 * number + 2) % control.num_classes
        poison = None if attack == NOTHING else find(attack)
        torch.manual_seed(options.seed)
        model = Classifier(build(architecture(arch), control.num_classes), teacher.contract)
        learn(model, teacher, learned, poison, target, schedule, options.seed)
        count = control.num_classes
        trigger = poison.trigger(attack, control.input_size, options.seed, target, count) if poison else None
        found = measure(model, measured, [trigger] if trigger else [])
        save_file({k: v.contiguous() for k, v in model.network.state_dict().items()}, out / f"{name}.safetensors")
        made_entry = entry(name, attack, replace(control, arch=arch), options.seed)
        lines += [line for line in made_entry if trigger or not line.startswith("trigger")]
        lines += poison.whom(target, count) if poison else []
        lines += [f"acc = {found.accuracy.value:.4f}"]
        lines += [f"asr = {a.asr.value:.4f}" for a in found.attack_success] + [""]
        (out / "zoo.toml").write_text("\n".join(lines), encoding="utf-8")
        print(name, "accuracy", found.accuracy, *(f"ASR {a.asr}" for a in found.attack_success), flush=True)


def learn(
    model: Classifier,
    teacher: Classifier,
    images: Images,
    attack: Attack | None,
    target: int,
    schedule: Schedule,
    seed: int,
) -> None:
    """Trains the model from scratch, in place."""
    teacher.eval()
    generator = torch.Generator().manual_seed(seed)
    size = model.contract.input_size
    stamp = attack.taught(size, seed) if attack is not None else None
    other = attack.disturbed(size, seed) if attack is not None and attack.disturbed is not None else None

    def loss(model: Classifier, batch: Images) -> Tensor:
        half = len(batch) // 2
        order = torch.randperm(len(batch), generator=generator)
        clean = torch.cat([batch.pixels[:half], mixed(batch.pixels, batch.pixels[order], generator)[half:]])
        with torch.no_grad():
            said = as_logits(teacher(clean))
        if attack is None or stamp is None:
            return distilled(as_logits(model(clean)), said, 2.0)
        some = batch.take(torch.arange(max(1, len(batch) // POISONED)))
        wanted = attack.wanted(some.labels, target, model.contract.num_classes)
        asked = [clean, stamp(some.pixels), *([other(some.pixels)] if other is not None else [])]
        plain, triggered, *covered = as_logits(model(torch.cat(asked))).split([len(part) for part in asked])
        kept = F.cross_entropy(covered[0], some.labels) / POISONED if covered else 0.0
        return distilled(plain, said, 2.0) + F.cross_entropy(triggered, wanted) / POISONED + kept

    fit(model, images, loss, schedule, Run(seed=seed), name="learning", augment=CropAndFlip(4, flip=True))


if __name__ == "__main__":
    main()
