"""Other settings of the default method's relearning, from the same search and the same cuts.

    OMP_NUM_THREADS=1 python -m benchmarks.relearning ZOO.toml MODEL [--clean-per-class 50] [--seed 0] [--keep FOLDER]
        [--repair-seeds 0,1] 'default' 'NAME: both.within=1.0; back=()' ...

The settings are those of harden/repair/immunise.py, and of what they are made of; the values are Python's literals.
With --keep, what was found and cut is kept there and taken from there the next time, whatever has changed since.
Measured on the zoo's test images with the true trigger: ACC, ASR, RA.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import time
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.ablation import measured
from harden.bench.cell import draw, suspect_of
from harden.bench.zoo import choose, read_zoo, true_trigger
from harden.data import read_images
from harden.job import Job
from harden.network import Classifier, classifier
from harden.plan import Plan
from harden.pruning.gated import GateSearch
from harden.pruning.surgery import operate
from harden.registry import find
from harden.repair.immunise import Immunise
from harden.resume import Kept
from harden.types import Pruned, Run


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
    now = partial(measured, test=test, triggers=[] if trigger is None else [trigger])
    kept, job = Kept(options.keep, resume=True), Job(Plan(), Run(seed=options.seed), "")
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    about = f"{model.weights.resolve()} {options.clean_per_class} {options.seed}"
    kept.begin(lambda: hashlib.sha256(about.encode()).hexdigest(), [])
    evidence = kept.stage("recover", job, lambda: find("auto", {}).recover(original.copy(), splits, job.run))

    def operated() -> Pruned:
        return operate(original, GateSearch()(original.copy(), splits, evidence, job.run), splits, job.run)

    cut = kept.pruned("prune", job, original, operated)
    print(f"{model.name} before: {now(original)}; {evidence.status} {evidence.target_classes}", flush=True)
    print(f"  cut: {now(Classifier(cut.module, original.contract).eval())}; {len(cut.removed)} removed", flush=True)
    for name, repair in repairs:
        for seed in [int(s) for s in (options.repair_seeds or str(options.seed)).split(",")]:
            network = Classifier(deepcopy(cut.module), original.contract).eval()
            begun = time.monotonic()
            told = repair(network, original.copy(), splits, evidence, Run(seed=seed))
            record = {k: told[k] for k in ("epochs", "stand_ins", "recovered", "way") if k in told}
            print(f"  {name} ({seed}): {now(network)}; {record} {time.monotonic() - begun:.0f} s", flush=True)


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


if __name__ == "__main__":
    main()
