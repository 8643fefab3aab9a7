"""A published network with a backdoor, made a control: whoever is told the trigger unlearns it.

    python -m benchmarks.healed ZOO.toml MODEL OUT
    python -m benchmarks.implant OUT/zoo.toml OTHERS --attacks cartoon,watermark,scattered

So a network of a kind that was only published with a backdoor can be given other ones. What is left of the first stays
in it: its target is still a little easier to reach than other classes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from harden.bench.cell import suspect_of
from harden.bench.zoo import choose, read_zoo, true_trigger
from harden.data import read_images, split, together
from harden.measure import measure
from harden.network import Classifier, as_logits, classifier
from harden.repair.augment import CropAndFlip
from harden.repair.losses import distilled
from harden.repair.train import Schedule, fit
from harden.types import Images, Run

SCHEDULE = Schedule(epochs=8, batch=64, rate=0.01, shape="cosine", clip=5.0, freeze_norm=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    (entry,) = choose(read_zoo(options.zoo), [options.model])
    trigger = true_trigger(entry)
    if trigger is None:
        parser.error(f"{entry.name} has no backdoor to unlearn")
    model = classifier(suspect_of(entry, "cpu"))
    original = model.copy().eval()
    test = read_images(entry.data.test, model.contract)[0]
    known = together(read_images(entry.data.clean, model.contract)[0], split(test, 0, (0.5, 0.0, 0.5)).tune)

    def loss(model: Classifier, batch: Images) -> Tensor:
        some = trigger(batch.take(torch.arange(len(batch) // 2)))
        plain, triggered = as_logits(model(torch.cat([batch.pixels, some.pixels]))).split([len(batch), len(some)])
        with torch.no_grad():
            said = as_logits(original(batch.pixels))
        held = distilled(plain, said, 2.0) + F.cross_entropy(plain, batch.labels)
        return held + F.cross_entropy(triggered, some.labels)

    fit(model, known, loss, SCHEDULE, Run(seed=0), name="healing", augment=CropAndFlip(3, flip=True))
    found = measure(model, test, [trigger])
    print(f"{entry.name}: accuracy {found.accuracy}, ASR {found.attack_success[0].asr}", flush=True)
    out: Path = options.out
    out.mkdir(parents=True)
    save_file({k: v.contiguous() for k, v in model.network.state_dict().items()}, out / "healed.safetensors")
    lines = [f"[data.{entry.data.name}]"]
    lines += [f"clean = {json.dumps(str(entry.data.clean))}", f"test = {json.dumps(str(entry.data.test))}", ""]
    lines += ["[[model]]", 'name = "healed"', 'weights = "healed.safetensors"', f"arch = {json.dumps(entry.arch)}"]
    lines += [f"num_classes = {entry.num_classes}", f"input_size = {list(entry.input_size)}"]
    lines += [f'data = "{entry.data.name}"', f"mean = {list(entry.mean)}", f"std = {list(entry.std)}"]
    lines += [f"acc = {found.accuracy.value:.4f}", ""]
    (out / "zoo.toml").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
