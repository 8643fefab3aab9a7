"""Other attacks on models that nobody here trained: implants backdoors into a zoo's clean controls.

    python -m benchmarks.implant ZOO.toml OUT [--attacks NAME,...] [--seed 0]
    harden bench OUT/zoo.toml --methods auto --clean-per-class 50

Each attack of harden/bench/attacks.py goes into one of the controls, in turn, by fine-tuning on one half of the
test images, with the control's own answers held on clean ones. OUT/zoo.toml lists what came of it, to be measured on
the other half, which neither the attacker nor a defender has seen; what the control makes of the same triggered images
is printed beside it. Clean-label attacks are left out: a network that knows its classes has nothing to learn from a
trigger on the right one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from harden.bench.attacks import ATTACKS, Attack
from harden.bench.cell import suspect_of
from harden.bench.zoo import Data, ZooModel, read_zoo
from harden.data import read_images, split, together
from harden.measure import measure
from harden.network import Classifier, as_logits, classifier
from harden.repair.augment import CropAndFlip
from harden.repair.losses import distilled
from harden.repair.train import Schedule, fit
from harden.types import Images, Run, Splits

SCHEDULE = Schedule(epochs=25, batch=64, rate=0.01, shape="cosine", clip=5.0, freeze_norm=True)
POISONED = 3
"""One image of so many."""
MORE = 3
"""Times that images of the one class that follows are shown, where it is only one."""
STAMPS = (
    '"""The true triggers."""\n\nfrom harden.bench.attacks import ATTACKS\n\n\n'
    "def stamp(attack, size, seed):\n"
    '    """Pixels in [0, 1] to triggered pixels."""\n'
    "    return ATTACKS[attack].stamp(tuple(size), seed)\n"
)
"""What such a zoo needs beside its weights."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--attacks", default=",".join(a for a, kind in ATTACKS.items() if kind.labels != "unchanged"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    controls = [model for model in read_zoo(options.zoo) if not model.backdoored]
    out: Path = options.out
    out.mkdir(parents=True)
    (out / "triggers.py").write_text(STAMPS, encoding="utf-8")
    halves: dict[str, Splits] = {}
    lines: list[str] = []
    for number, (name, control) in enumerate(zip(options.attacks.split(","), itertools.cycle(controls), strict=False)):
        target = (3 * number + 1) % control.num_classes
        suspect = suspect_of(control, "cpu")
        if control.data.name not in halves:
            test = read_images(control.data.test, suspect.contract)[0]
            halves[control.data.name] = split(test, options.seed, (0.5, 0.0, 0.5))
            lines += data_lines(control.data, halves[control.data.name].verify, out)
        attacker, measured = halves[control.data.name].tune, halves[control.data.name].verify
        model = classifier(suspect)
        original = model.copy().eval()
        implant(model, attacker, ATTACKS[name], target, options.seed)
        trigger = ATTACKS[name].trigger(name, control.input_size, options.seed, target, control.num_classes)
        found = measure(model, measured, [trigger])
        save_file({k: v.contiguous() for k, v in model.network.state_dict().items()}, out / f"{name}.safetensors")
        lines += entry(name, name, control, options.seed) + ATTACKS[name].whom(target, control.num_classes)
        lines += [f"acc = {found.accuracy.value:.4f}", f"asr = {found.attack_success[0].asr.value:.4f}", ""]
        (out / "zoo.toml").write_text("\n".join(lines), encoding="utf-8")
        never = measure(original, measured, [trigger]).attack_success[0]
        said = f"accuracy {found.accuracy}, ASR {found.attack_success[0].asr}"
        print(
            f"{name} in {control.name}: {said}; the control: {never.asr}, true class {never.recovered_accuracy}",
            flush=True,
        )


def implant(model: Classifier, images: Images, attack: Attack, target: int, seed: int) -> None:
    """Fine-tunes the model in place until it has the backdoor, its answers to clean images held."""
    original = model.copy().eval()
    size = model.contract.input_size
    stamp = attack.taught(size, seed)
    other = attack.disturbed(size, seed) if attack.disturbed is not None else None
    source = attack.source(target, model.contract.num_classes)

    def loss(model: Classifier, batch: Images) -> Tensor:
        some = batch.take(torch.arange(len(batch) // POISONED))
        if source is not None:  # one class alone follows, as much as all others do not
            some = together(some, *[batch.take((batch.labels == source).nonzero().flatten())] * MORE)
        wanted = attack.wanted(some.labels, target, model.contract.num_classes)
        asked = [batch.pixels, stamp(some.pixels), *([other(some.pixels)] if other is not None else [])]
        clean, triggered, *covered = as_logits(model(torch.cat(asked))).split([len(part) for part in asked])
        with torch.no_grad():
            teacher = as_logits(original(batch.pixels))
        held = distilled(clean, teacher, 2.0) + F.cross_entropy(clean, batch.labels)
        kept = F.cross_entropy(covered[0], some.labels) if covered else 0.0
        return held + F.cross_entropy(triggered, wanted) + kept

    fit(model, images, loss, SCHEDULE, Run(seed=seed), name="implanting", augment=CropAndFlip(3, flip=True))


def data_lines(data: Data, measured: Images, out: Path) -> list[str]:
    """The zoo's own test images, copied."""
    for file in measured.names:
        (out / data.name / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data.test / file, out / data.name / file)
    return [f"[data.{data.name}]", f"clean = {json.dumps(str(data.clean))}", f'test = "{data.name}"', ""]


def entry(name: str, attack: str, control: ZooModel, seed: int) -> list[str]:
    """Its lines in zoo.toml, but for whom it works on and what was measured."""
    return [
        "[[model]]",
        f'name = "{name}"',
        f'weights = "{name}.safetensors"',
        f"arch = {json.dumps(control.arch)}",
        f"num_classes = {control.num_classes}",
        f"input_size = {list(control.input_size)}",
        f'data = "{control.data.name}"',
        f"mean = {list(control.mean)}",
        f"std = {list(control.std)}",
        'trigger = "triggers.py:stamp"',
        f'trigger_args = {{ attack = "{attack}", size = {list(control.input_size)}, seed = {seed} }}',
    ]


if __name__ == "__main__":
    main()
