"""How easy each class is to reach by one family of changes, searched to the end for every class.

    python -m benchmarks.families zoo.toml veil MODEL,MODEL 50 0    (zoo, family, models, clean images per class, seed)

A row for each model: the target's size and how many times smaller than usual it is, and the strangest of the other
classes. The sizes of the scan differ a little: it begins from other starts, and goes on with the easiest classes alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from harden.bench.cell import draw, suspect_of
from harden.bench.zoo import choose, read_zoo
from harden.data import read_images
from harden.network import classifier
from harden.triggers.families import default_families
from harden.triggers.inversion import Aim, Inversion, Search, ToClass, begin, searchable
from harden.triggers.smallest import SmallestChange
from harden.triggers.strange import usual


def main() -> None:
    zoo, name, models, per_class, seed = sys.argv[1:6]
    (family,) = (f for f in default_families() if f.name == name)
    steps = SmallestChange().glance + SmallestChange().look
    print("| model | size: target | times smaller than usual: target | strangest of the others | never reached |")
    print("|---|---|---|---|---|")
    for model in choose(read_zoo(Path(zoo)), models.split(",")):
        suspect = suspect_of(model, "cpu")
        images = draw(read_images(model.data.clean, suspect.contract)[0], int(per_class), int(seed)).tune
        network = searchable(classifier(suspect).eval(), images)
        searches: dict[Aim, Inversion] = {}
        for k in range(suspect.contract.num_classes):
            generator = torch.Generator().manual_seed(int(seed))
            searches[ToClass(k)] = begin(network, family, ToClass(k), images, Search(), generator)
            searches[ToClass(k)].run(steps)
        times = {aim: usual(searches, aim) / search.size() for aim, search in searches.items() if search.kept}
        target = None if model.target is None else ToClass(model.target)
        mine = f"{searches[target].size():.1f} | {times[target]:.2f}" if target in times else "- | -"
        others = max((score for aim, score in times.items() if aim != target), default=0.0)
        print(f"| {model.name} | {mine} | {others:.2f} | {len(searches) - len(times)} of {len(searches)} |", flush=True)


if __name__ == "__main__":
    main()
