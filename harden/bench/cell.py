"""Runs one cell: `python -m harden.bench.cell` with a JSON order on standard input, in a process of its own.

What a method is given comes from the clean images alone, as many per class as the budget says. Test images and the
true trigger are read by `measure`, and by a method only if its name is followed by `:given`, as the table shows.
"""

from __future__ import annotations

import json
import math
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harden import stages
from harden.bench.row import Cell, Numbers, Row, save
from harden.bench.spec import Spec, parse
from harden.bench.zoo import ZooModel, choose, read_zoo, true_trigger
from harden.data import class_folders, read_images, split
from harden.errors import HardenError
from harden.loading import load
from harden.measure import measure
from harden.methods import METHODS
from harden.network import Classifier, classifier
from harden.pruning.dead import bury
from harden.pruning.record import joined
from harden.pruning.surgery import operate
from harden.triggers.given import Given
from harden.types import (
    GUILTY,
    Cost,
    Filter,
    Images,
    Method,
    Proposal,
    Pruned,
    Run,
    Splits,
    Suspect,
    Trigger,
)

FRACTIONS = (0.7, 0.25, 0.05)
"""Of the drawn images for tune, choose and verify."""


def run_cell(model: ZooModel, cell: Cell, *, key: str = "", device: str = "cpu", time_budget: float = math.inf) -> Row:
    """Measures one method on one model. Errors come out as they are; `main` makes rows of them."""
    trigger = true_trigger(model)
    suspect = suspect_of(model, device)
    test = read_images(model.data.test, suspect.contract)[0].to(device)
    splits = draw(read_images(model.data.clean, suspect.contract)[0], cell.clean_per_class, cell.seed).to(device)
    before = numbers(classifier(suspect), test, trigger)
    _forget_peak()
    started, cost = time.monotonic(), Cost()
    run = Run(seed=cell.seed, device=device, cost=cost, deadline=started + time_budget)
    spec = parse(cell.method, METHODS)
    changed, told = apply(method_of(spec, trigger), suspect, splits, run, prune=spec.prune)
    seconds, peak = time.monotonic() - started, _peak()
    after = numbers(Classifier(changed.network, suspect.contract), test, trigger)
    return Row(
        cell,
        key,
        model.backdoored,
        model.target,
        before=before,
        after=after,
        seconds=round(seconds, 2),
        forward_images=cost.forward_images,
        backward_images=cost.backward_images,
        peak_memory_mb=round(peak, 1),
        **told,
    )


def apply(
    method: Method, suspect: Suspect, splits: Splits, run: Run, *, prune: bool = False
) -> tuple[Classifier, dict[str, Any]]:
    """Recover, prune, cut, repair, and prune again: the changed network, and what there is to tell about it."""
    original = classifier(suspect, run.cost)
    model = original.copy()
    changes = method.prune is not None or method.repair is not None
    evidence = method.recover(original.copy(), splits, run.leaving(stages.AFTER_RECOVER if changes else 0.0))
    told: dict[str, Any] = {
        "scan_status": evidence.status,
        "scan_targets": evidence.target_classes,
        "scan_why": evidence.why,
    }
    scores = sorted(evidence.evidence, key=lambda e: -e.score)[:8]
    notes: dict[str, Any] = {
        "triggers": [t.name for t in evidence.triggers],
        "evidence": [[e.method, e.label, round(e.score, 2)] for e in scores],
    }
    proposal, pruned = Proposal(()), None
    if method.prune is not None:
        leave = stages.AFTER_PRUNE if method.repair is not None else 0.0
        proposal = method.prune(model.copy(), splits, evidence, run.leaving(leave))
        pruned = operate(model, proposal, splits, run)
        model = _network_of(pruned, original)
    if method.repair is not None:
        notes["repair"] = dict(method.repair(model, original, splits, evidence, run))
    if prune:
        again = bury(model, [Filter(*f) for f in notes.get("repair", {}).get(GUILTY, ())], splits, run)
        pruned = again if pruned is None else joined(pruned, again)
        model = _network_of(pruned, original)
    if pruned is not None:
        told |= {
            "filters_removed": len(pruned.removed),
            "filters_masked": len(pruned.masked),
            "filters_total": pruned.filters_total,
        }
        notes["prune"] = {
            "guilty": [str(f) for f in proposal.guilty],
            "stopped_because": pruned.stopped_because,
            "refusals": [f"{r.filter}: {r.reason}" for r in pruned.refusals],
        }
    return model.eval(), {**told, "notes": _plain(notes)}


def _network_of(pruned: Pruned, original: Classifier) -> Classifier:
    return Classifier(pruned.module, original.contract, original.cost).to(original.mean.device).eval()


def method_of(spec: Spec, trigger: Trigger | None) -> Method:
    """The method that was named, with its settings, and the true trigger where it asks for that."""
    method = METHODS[spec.name](**spec.settings)
    if spec.recover is not None:
        method = replace(method, recover=METHODS[spec.recover]().recover)
    if spec.given:
        method = replace(method, recover=Given((trigger,) if trigger else ()))
    return method


def numbers(model: Classifier, test: Images, trigger: Trigger | None) -> Numbers:
    """What the network does on the test images."""
    measured = measure(model.eval(), test, (trigger,) if trigger else ())
    attack = measured.attack_success[0] if measured.attack_success else None
    return Numbers(
        accuracy=measured.accuracy,
        asr=attack.asr if attack else None,
        recovered=attack.recovered_accuracy if attack else None,
        worst_class=min((rate.value for rate in measured.per_class if rate.total), default=math.nan),
        parameters=measured.parameters,
        macs=measured.macs,
    )


def suspect_of(model: ZooModel, device: str) -> Suspect:
    """The model as `harden` loads any other: scanned first, never run."""
    found = load(
        model.weights,
        arch=model.arch,
        classes=class_folders(model.data.clean),
        mean=model.mean,
        std=model.std,
        input_size=model.input_size,
    )
    return replace(found, module=found.module.to(device))


def draw(images: Images, per_class: int, seed: int) -> Splits:
    """So many images of each class, drawn by the seed, in disjoint splits.

    Reports are made on the zoo's test images, so nearly all go to tuning and choosing.
    """
    generator = torch.Generator().manual_seed(seed)
    index = []
    for label in images.labels.unique().tolist():
        mine = (images.labels == label).nonzero().flatten()
        index.append(mine[torch.randperm(len(mine), generator=generator)[:per_class]])
    return split(images.take(torch.cat(index)), seed, FRACTIONS)


def _forget_peak() -> None:
    """Linux: the high-water mark of memory starts again at what is in use."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # then the mark includes what loading took


def _peak() -> float:
    """The most memory in use since, in MB; of the GPU where it is the GPU's that counts."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1e3
    except OSError:
        pass
    return math.nan


def _plain(value: Any) -> Any:
    """Values that JSON has."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def main() -> None:
    """Carries out the order and saves its row, whatever happens."""
    order = json.load(sys.stdin)
    cell = Cell(**order["cell"])
    torch.set_num_threads(order["threads"])
    (model,) = choose(read_zoo(Path(order["zoo"])), [cell.model])
    budget = math.inf if order["time_budget"] is None else float(order["time_budget"])
    try:
        row = run_cell(model, cell, key=order["key"], device=order["device"], time_budget=budget)
    except HardenError as error:
        row = Row(cell, order["key"], model.backdoored, model.target, error=str(error))
    except Exception as error:
        traceback.print_exc()
        message = f"{type(error).__name__}: {error}"
        row = Row(cell, order["key"], model.backdoored, model.target, error=message)
    save(row, Path(order["file"]))


if __name__ == "__main__":
    main()
