"""Where triggered images go once a trigger was unlearned: to their own class, or to yet another one?

    OMP_NUM_THREADS=1 python -m benchmarks.unlearning [--seed 0]

The bundled backdoored network with its true trigger, 20 clean images per class to learn and to choose from, and 440
triggered images of other classes that nothing was learned from. Ascent drives the network away from the target and
says nothing of where to go; relabelling names the true class. Both are `harden.repair.ascent.Ascent`, as `baerase`
runs it: stopped as soon as the trigger hardly works, and ascent also left to run to the end of its epochs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from harden import stages
from harden.commands import backdoored_sample
from harden.network import Classifier, classifier, predict
from harden.plan import settle
from harden.pruning.guard import accuracy
from harden.repair.ascent import Ascent
from harden.triggers.attacked import Attacked, attacked
from harden.types import Evidence, Rate, Run

SAMPLES = Path(__file__).parents[1] / "samples"
NEVER = -1.0
UNLEARNERS = {
    "ascent, stopped": Ascent(),
    "ascent, to the end": Ascent(until=NEVER),
    "relabelling, stopped": Ascent(relabel=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    torch.set_num_threads(1)
    print("| | accuracy | target | true class | another class | most of those |\n|" + "---|" * 6)
    plan = settle(backdoored_sample(SAMPLES))
    suspect = stages.open_suspect(plan)
    (trigger,) = stages.given_triggers(plan, suspect.contract)
    splits = stages.read_splits(plan, suspect.contract, Run(seed=seed))
    verify = splits.verify
    assert trigger.target is not None
    evidence = Evidence("backdoored", (trigger.target,), (), (trigger,))
    others = verify.take((verify.labels != trigger.target).nonzero().flatten())
    on = attacked([trigger], others)
    show("as it came", classifier(suspect), accuracy(classifier(suspect), verify), on)
    for name, unlearn in UNLEARNERS.items():
        model = classifier(suspect)
        told = unlearn(model, classifier(suspect), splits, evidence, Run(seed=seed))
        show(f"{name} ({told['epochs']} epochs)", model, accuracy(model, verify), on)


def show(name: str, model: Classifier, clean: Rate, on: Attacked) -> None:
    """One line of the table."""
    said, labels, classes = predict(model, on.images).argmax(1), on.images.labels, model.contract.classes
    there, back = said == on.targets, said == labels
    elsewhere = said[~there & ~back].bincount(minlength=len(classes))
    most = int(elsewhere.argmax())
    counts = [Rate(int(hits.sum()), len(said)) for hits in (there, back, ~there & ~back)]
    share = f"{classes[most]}: {Rate(int(elsewhere[most]), int(elsewhere.sum()))}" if elsewhere.any() else "-"
    print(
        f"| {name} | {clean} | " + " | ".join(f"{c} ({c.hits} of {c.total})" for c in counts) + f" | {share} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
