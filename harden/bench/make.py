"""A canary from your own classes: trains a small model with a known backdoor, and leaves a zoo to measure it with.

OUT/model.safetensors  net.py          the model and its architecture
OUT/model.toml                         its contract, so that `harden clean` knows it
OUT/triggers.py                        the true trigger
OUT/clean/  OUT/test/                  images that it was not trained on: for the defender, and for measuring
OUT/zoo.toml                           all of it, for `harden bench`
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from harden.bench import small_net
from harden.bench.attacks import find, poison
from harden.data import class_folders, read_images, split, without_repeats
from harden.errors import BadOutput, UsageError
from harden.measure import measure
from harden.network import Classifier
from harden.repair.augment import CropAndFlip
from harden.repair.losses import cross_entropy
from harden.repair.train import Schedule, fit
from harden.types import Contract, Images, Progress, Rate, Run, Silent

PARTS = (0.6, 0.2, 0.2)
"""Of the images for training, for the defender and for measuring."""


@dataclass(frozen=True)
class Canary:
    """What was made."""

    folder: Path
    accuracy: Rate
    """On images that it was not trained on."""
    attack_success: Rate


def make(
    data: Path,
    out: Path,
    attack: str = "badnets",
    *,
    target: int = 0,
    rate: float = 0.1,
    size: int = 32,
    epochs: int = 30,
    least_steps: int = 600,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Canary:
    """Trains a small network with this backdoor on a folder per class, and writes all that belongs to it."""
    kind, classes = find(attack), tuple(class_folders(data))
    if not 0 <= target < len(classes):
        raise UsageError(f"the target {target} is none of the {len(classes)} classes", hint="Classes count from 0.")
    if not 0 < rate <= 1:
        raise UsageError(f"the share of poisoned images is {rate}; more than 0 and at most 1 was expected")
    if out.exists() and any(out.iterdir()):
        raise BadOutput(f"{out} is not empty", hint="Name a folder that is not there yet.")
    shape = (3, size, size)
    contract = Contract(len(classes), classes, shape, (0.5,) * 3, (0.25,) * 3, "net.py:small_net")
    run = Run(seed=seed, device=device, progress=progress or Silent())
    images = without_repeats(read_images(data, contract, progress=run.progress)[0])[0]
    parts = split(images, seed, PARTS)
    poisoned = poison(parts.tune, kind, size=shape, target=target, rate=rate, seed=seed).to(device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # inside fork_rng: layers draw their first weights from the global generator
        model = Classifier(small_net.small_net(len(classes)), contract).to(device)
    schedule = Schedule(epochs=epochs, least_steps=least_steps, batch=64, rate=0.05, shape="cosine")
    fit(model, poisoned, cross_entropy, schedule, run, name=f"training with {attack}", augment=CropAndFlip(size // 8))
    trigger = kind.trigger(attack, shape, seed, target, len(classes))
    measured = measure(model, parts.verify.to(device), [trigger])
    canary = Canary(out, measured.accuracy, measured.attack_success[0].asr)
    whom = kind.whom(target, len(classes))
    _write(canary, model, data, parts.choose, parts.verify, attack, whom, seed)
    return canary


def _write(
    canary: Canary,
    model: Classifier,
    data: Path,
    clean: Images,
    test: Images,
    attack: str,
    whom: list[str],
    seed: int,
) -> None:
    out, contract = canary.folder, model.contract
    out.mkdir(parents=True, exist_ok=True)
    for name, images in (("clean", clean), ("test", test)):
        for file in images.names:
            (out / name / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(data / file, out / name / file)
    save_file({k: v.cpu().contiguous() for k, v in model.network.state_dict().items()}, out / "model.safetensors")
    (out / "net.py").write_text(Path(small_net.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    (out / "triggers.py").write_text(
        '"""The true trigger of this canary."""\n\n'
        "from harden.bench.attacks import ATTACKS\n\n\n"
        "def trigger():\n"
        '    """Pixels in [0, 1] to triggered pixels."""\n'
        f'    return ATTACKS["{attack}"].stamp({contract.input_size}, {seed})\n',
        encoding="utf-8",
    )
    mean, std = list(contract.mean), list(contract.std)
    (out / "model.toml").write_text(
        f"[model]\nnum_classes = {contract.num_classes}\n"
        f"classes = {json.dumps(list(contract.classes), ensure_ascii=False)}\n"
        f"input_size = {list(contract.input_size)}\nmean = {mean}\nstd = {std}\n",
        encoding="utf-8",
    )
    lines = "".join(f"{line}\n" for line in whom)
    (out / "zoo.toml").write_text(
        f'[data.own]\nclean = "clean"\ntest = "test"\n\n[[model]]\nname = "{attack}"\nweights = "model.safetensors"\n'
        f'arch = "net.py:small_net"\nnum_classes = {contract.num_classes}\ninput_size = {list(contract.input_size)}\n'
        f'data = "own"\nmean = {mean}\nstd = {std}\ntrigger = "triggers.py:trigger"\n{lines}'
        f"acc = {canary.accuracy.value:.4f}\nasr = {canary.attack_success.value:.4f}\n",
        encoding="utf-8",
    )
