"""Other settings of the default method's relearning, from the same search and the same cuts.

    OMP_NUM_THREADS=1 python -m benchmarks.relearning ZOO.toml MODEL [--clean-per-class 50] [--seed 0] [--keep FOLDER]
        [--repair-seeds 0,1] 'default' 'NAME: both.within=1.0; back=()' ...

The settings are those of harden/repair/immunise.py, and of what they are made of; the values are Python's literals.
With --keep, what was found and cut is put there and taken from there the next time: only where neither has changed.
Measured on the zoo's test images with the true trigger: ACC, ASR, RA.
"""

from __future__ import annotations

import argparse
import ast
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harden.bench.cell import draw, suspect_of
from harden.bench.zoo import ZooModel, choose, read_zoo, true_trigger
from harden.data import read_images
from harden.measure import measure
from harden.network import Classifier, classifier
from harden.pruning.gated import GateSearch
from harden.pruning.surgery import operate
from harden.registry import find
from harden.repair.immunise import Immunise
from harden.types import Evidence, Pruned, Run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("model")
    parser.add_argument("settings", nargs="+", metavar="NAME[: SETTING=VALUE; ...]")
    parser.add_argument("--clean-per-class", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repair-seeds", default=None)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    (model,) = choose(read_zoo(options.zoo), [options.model])
    repairs = [(name, changed(told)) for name, _, told in (one.partition(":") for one in options.settings)]
    suspect = suspect_of(model, "cpu")
    original = classifier(suspect)
    splits = draw(read_images(model.data.clean, suspect.contract)[0], options.clean_per_class, options.seed)
    test, trigger = read_images(model.data.test, suspect.contract)[0], true_trigger(model)

    def measured(network: Classifier) -> str:
        found = measure(network.eval(), test, [] if trigger is None else [trigger])
        shares = [found.accuracy, *(share for a in found.attack_success for share in (a.asr, a.recovered_accuracy))]
        return " / ".join(f"{100 * share.value:.1f}" for share in shares if share is not None)

    file = options.keep and options.keep / f"{model.name}-{options.clean_per_class}-{options.seed}.pt"
    evidence, cut = kept(file) or searched(model, options.clean_per_class, options.seed)
    if file:
        options.keep.mkdir(parents=True, exist_ok=True)
        torch.save((evidence, cut), file)
    print(f"{model.name} before: {measured(original)}; {evidence.status} {evidence.target_classes}", flush=True)
    print(f"  cut: {measured(Classifier(cut.module, original.contract))}; {len(cut.removed)} removed", flush=True)
    for name, repair in repairs:
        for seed in [int(s) for s in (options.repair_seeds or str(options.seed)).split(",")]:
            network = Classifier(deepcopy(cut.module), original.contract).eval()
            begun = time.monotonic()
            told = repair(network, original.copy(), splits, evidence, Run(seed=seed))
            record = {k: told[k] for k in ("epochs", "stand_ins", "recovered", "way") if k in told}
            print(f"  {name} ({seed}): {measured(network)}; {record} {time.monotonic() - begun:.0f} s", flush=True)


def changed(told: str) -> Immunise:
    """The default's relearning with these settings in place of its own."""
    repair: Any = Immunise()
    for setting in filter(None, map(str.strip, told.split(";"))):
        path, _, value = setting.partition("=")
        repair = replaced(repair, path.strip().split("."), ast.literal_eval(value.strip()))
    assert isinstance(repair, Immunise)
    return repair


def replaced(whole: Any, path: list[str], value: Any) -> Any:
    """The same, but for the one value that lies there."""
    first, *rest = path
    return replace(whole, **{first: replaced(getattr(whole, first), rest, value) if rest else value})


def kept(file: Path | None) -> tuple[Evidence, Pruned] | None:
    """What an earlier run of this script left there."""
    if file is None or not file.is_file():
        return None
    found: tuple[Evidence, Pruned] = torch.load(file, weights_only=False)
    return found


def searched(model: ZooModel, per_class: int, seed: int) -> tuple[Evidence, Pruned]:
    """What the default finds in it, and cuts."""
    suspect = suspect_of(model, "cpu")
    original, run = classifier(suspect), Run(seed=seed)
    splits = draw(read_images(model.data.clean, suspect.contract)[0], per_class, seed)
    evidence = find("auto", {}).recover(original.copy(), splits, run)
    proposal = GateSearch()(original.copy(), splits, evidence, run)
    return evidence, operate(original, proposal, splits, run)


if __name__ == "__main__":
    main()
