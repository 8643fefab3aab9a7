"""Each part of the default method taken away, one at a time: what it is worth on a model.

    OMP_NUM_THREADS=1 python -m benchmarks.ablation ZOO.toml MODEL ... [--clean-per-class 50] [--seed 0]

The search runs once for each model; every line then cuts and relearns, from the same evidence, and is measured on the
zoo's test images with the true trigger. Runs of one setting differ by about half a point.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

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
from harden.triggers.again import Again
from harden.types import Evidence, Images, Pruned, Run, Splits, Trigger


def blind(look: Again) -> Again:
    """As long a search that starts from next to nothing, and not near what is known."""
    return replace(look, known=False)


CUTS: dict[str, GateSearch] = {
    "best guess closed unchecked": GateSearch(candidates=1, least=-math.inf),
    "no second look for what is left": GateSearch(searches=0),
    "cuts not held to mixtures": GateSearch(apart=math.inf),
    "no spare filters": GateSearch(spare=None),
}
RELEARNING: dict[str, Immunise] = {
    "the suspect is believed": Immunise(doubt=False),
    "no distillation": Immunise(distil=0.0),
    "no labels": Immunise(label=0.0),
    "the target not forbidden": Immunise(forbid=0.0),
    "no stronger copies": Immunise(stronger=()),
    "nothing looked for again": Immunise(every=0),
    "not looked for before relearning begins": Immunise(first=replace(Immunise().first, steps=0)),
    "all that is found again is learned": Immunise(again=replace(Immunise().again, follow=0.0)),
    "looked for from nothing": Immunise(first=blind(Immunise().first), again=blind(Immunise().again)),
    "the whole way": Immunise(ways=()),
    "nothing mixed": Immunise(few=0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("zoo", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--clean-per-class", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | without | filters removed | ACC | ASR | RA |\n|---|---|---|---|---|---|")
    for model in choose(read_zoo(options.zoo), options.models):
        Ablation(model, options.clean_per_class, options.seed).run()


class Ablation:
    """One model, searched once."""

    def __init__(self, zoo: ZooModel, per_class: int, seed: int) -> None:
        suspect = suspect_of(zoo, "cpu")
        self.name, self.job = zoo.name, Run(seed=seed)
        self.original = classifier(suspect)
        self.splits: Splits = draw(read_images(zoo.data.clean, suspect.contract)[0], per_class, seed)
        self.test: Images = read_images(zoo.data.test, suspect.contract)[0]
        trigger = true_trigger(zoo)
        self.triggers: Sequence[Trigger] = [] if trigger is None else [trigger]
        self.evidence: Evidence = find("auto", {}).recover(self.original.copy(), self.splits, self.job)

    def run(self) -> None:
        """Prints a line for each part."""
        print(f"| {self.name} | before anything | | {self._measured(self.original)} |", flush=True)
        cut, few = self._cut(GateSearch(), self.evidence), self._first_of_each_kind()
        self._say("the relearning", cut, None)
        self._say("nothing: the default", cut, Immunise())
        self._say("the cuts", self._uncut(), Immunise())
        for name, prune in CUTS.items():
            self._say(name, self._cut(prune, self.evidence), Immunise())
        for name, repair in RELEARNING.items():
            self._say(name, cut, repair)
        self._say("a second stand-in of each kind", self._cut(GateSearch(), few), Immunise(), few)

    def _first_of_each_kind(self) -> Evidence:
        kinds = {trigger.name: trigger for trigger in reversed(self.evidence.triggers)}
        return replace(self.evidence, triggers=tuple(kinds.values()))

    def _cut(self, prune: GateSearch, evidence: Evidence) -> Pruned:
        return operate(
            self.original, prune(self.original.copy(), self.splits, evidence, self.job), self.splits, self.job
        )

    def _uncut(self) -> Pruned:
        nothing = GateSearch()(self.original.copy(), self.splits, replace(self.evidence, status="clean"), self.job)
        return operate(self.original, nothing, self.splits, self.job)

    def _say(self, without: str, cut: Pruned, repair: Immunise | None, evidence: Evidence | None = None) -> None:
        model = Classifier(cut.module, self.original.contract).copy().eval()
        if repair is not None:
            repair(model, self.original.copy(), self.splits, evidence or self.evidence, self.job)
        print(f"| {self.name} | {without} | {len(cut.removed)} | {self._measured(model)} |", flush=True)

    def _measured(self, model: Classifier) -> str:
        return measured(model, self.test, self.triggers, " | ")


def measured(model: Classifier, test: Images, triggers: Sequence[Trigger], between: str = " / ") -> str:
    """ACC, and ASR and RA by each trigger, in percent."""
    found = measure(model, test, triggers)
    shares = [found.accuracy, *(share for a in found.attack_success for share in (a.asr, a.recovered_accuracy))]
    return between.join(f"{100 * share.value:.1f}" for share in shares if share is not None)


if __name__ == "__main__":
    main()
