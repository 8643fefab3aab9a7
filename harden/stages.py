"""The words that the sentence in pipeline.py is made of, where a stage has more than one case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harden import measure as measuring
from harden.data import check_preprocessing, class_folders, read_samples
from harden.errors import UsageError
from harden.loading import load
from harden.network import Classifier, predict, units
from harden.outcome import Cut, Scan
from harden.plan import Plan
from harden.pruning.budget import Budget, shrink
from harden.pruning.dead import bury
from harden.pruning.record import joined
from harden.pruning.surgery import operate
from harden.repair.regain import Regain
from harden.spelling import nearest
from harden.triggers.given import Given, from_directory, from_function, from_picture
from harden.types import (
    GUILTY,
    Budgeted,
    Contract,
    Evidence,
    Filter,
    Images,
    Method,
    Proposal,
    Pruned,
    Rate,
    Run,
    Splits,
    Suspect,
    Trigger,
)

AFTER_RECOVER = 0.5
"""Of a time budget: what a search for triggers leaves to pruning and repair; a trigger that is only known is no use."""
AFTER_PRUNE = 0.75
"""Of what is left then: what pruning leaves to the repair."""
LABELS = 8192
"""Bytes of an ONNX file that are set aside for what it says about itself, besides the filters removed."""


def open_suspect(plan: Plan) -> Suspect:
    """The model file, scanned, and loaded from the bytes that were scanned."""
    return load(
        plan.need("model", "MODEL"),
        arch=plan.arch,
        contract_file=plan.contract,
        classes=folder_names(plan.clean_dir or plan.verify_dir),
        mean=plan.mean,
        std=plan.std,
        input_size=plan.input_size,
        max_size=plan.max_input,
        trust_code=plan.trust_code,
    )


def folder_names(folder: Path | None) -> list[str] | None:
    """The classes as the folders of images name them."""
    return None if folder is None else class_folders(folder)


def read_splits(plan: Plan, contract: Contract, run: Run) -> Splits:
    """Clean images in three disjoint parts; with --verify-dir the last one is all of that folder."""
    folder = plan.need("clean_dir", "--clean-dir")
    return read_samples(folder, contract, plan.seed, run.progress, verify_dir=plan.verify_dir)


def check(model: Classifier, splits: Splits) -> None:
    """Stops before anything else if the model hardly knows its own classes: then the settings are wrong."""
    contract = model.contract
    labels = torch.cat([splits.tune.labels, splits.choose.labels]).cpu()
    said = torch.cat([measuring.classes(lambda x: predict(model, x), part) for part in (splits.tune, splits.choose)])
    pairs = (labels * contract.num_classes + said).bincount(minlength=contract.num_classes**2)
    accuracy = Rate(int((said == labels).sum()), len(labels))
    confusion = pairs.view(contract.num_classes, contract.num_classes)
    check_preprocessing(accuracy, contract.num_classes, confusion=confusion, classes=contract.classes)


ANY = "any"
"""In place of a class: another one for each picture (all-to-all), or nobody knows."""


def given_triggers(plan: Plan, contract: Contract) -> tuple[Trigger, ...]:
    """The trigger of the command line, in whichever of its three forms it came."""
    if plan.trigger is None and plan.trigger_dir is None:
        return ()
    target = class_number(plan.target, contract)
    if plan.trigger_dir is not None:
        return (from_directory(plan.trigger_dir, target, contract),)
    assert plan.trigger is not None
    if ".py:" in plan.trigger:
        return (from_function(plan.trigger, target),)
    return (from_picture(Path(plan.trigger), plan.mask, plan.blend, target, contract),)


def class_number(name: str | None, contract: Contract) -> int | None:
    """A class by its name or number; None where it is any other one."""
    if name is None:
        raise UsageError(
            "A trigger came without its target.",
            hint=f"Say which class it makes the model say: --target CLASS, or {ANY} where that depends on the picture.",
        )
    if name in contract.classes:
        return contract.classes.index(name)
    if name == ANY:
        return None
    if name.isdecimal() and int(name) < contract.num_classes:
        return int(name)
    raise UsageError(
        f"--target {name}: there is no such class.{nearest(name, contract.classes)}",
        hint=f"The classes are {', '.join(contract.classes[:20])}{' ...' if contract.num_classes > 20 else ''}.",
    )


def recover(method: Method, model: Classifier, splits: Splits, given: Sequence[Trigger], run: Run) -> Evidence:
    """Evidence from the triggers that were given, if they work; else the method looks for some."""
    if given:
        evidence = Given(tuple(given))(model, splits, run)
        if evidence.triggers:
            return evidence
    evidence = method.recover(model, splits, run)
    return replace(evidence, triggers=named_apart(evidence.triggers))


def named_apart(triggers: Sequence[Trigger]) -> tuple[Trigger, ...]:
    """Two stand-ins of one kind get two names: checks, waivers and reports know a trigger by its name."""
    times: Counter[str] = Counter()
    apart = []
    for trigger in triggers:
        times[trigger.name] += 1
        count = times[trigger.name]
        apart.append(trigger if count == 1 else replace(trigger, name=f"{trigger.name} ({count})"))
    return tuple(apart)


def prune(method: Method, model: Classifier, splits: Splits, evidence: Evidence, plan: Plan, run: Run) -> Pruned:
    """What the method proposes, as far as surgery can do it; nothing at all from a clean model."""
    proposal = Proposal((), stopped_because="nothing was found that would have to go")
    if not units(model):
        return operate(model, Proposal((), stopped_because="the network has no convolution to prune"), splits, run)
    if method.prune is not None and evidence.status != "clean":
        proposal = method.prune(model, splits, evidence, run.leaving(AFTER_PRUNE if method.repair else 0.0))
    if plan.target_speedup is not None or plan.max_size is not None:
        return shrunk(model, proposal, splits, plan, run)
    return operate(model, proposal, splits, run, align=plan.align, max_accuracy_drop=plan.max_cut_drop)


def shrunk(model: Classifier, proposal: Proposal, splits: Splits, plan: Plan, run: Run) -> Pruned:
    """After what is guilty, as much as the budget of the file asks for and accuracy allows."""
    about = LABELS + 8 * sum(unit.width for unit in units(model).values())  # what the file says about itself
    wanted = Budget(
        speedup=plan.target_speedup,
        max_bytes=None if plan.max_size is None else max(0, plan.max_size - about),
        max_drop=plan.max_drop / 100,
        provider=plan.provider,
    )

    def relearn(cut: Classifier, images: Images, longer: float) -> object:
        return Regain(longer=longer)(cut, model, replace(splits, tune=images), run)

    found = shrink(model, proposal, splits, run, wanted, relearn, align=plan.align)
    told = Budgeted(plan.target_speedup, plan.max_size, wanted.max_drop, found.reached, found.ended_by, found.attempts)
    return replace(found.pruned, budget=told)


def repair(
    method: Method, pruned: Pruned, suspect: Classifier, splits: Splits, evidence: Evidence, run: Run
) -> tuple[Pruned, Mapping[str, Any]]:
    """Moves the weights that are left, and says what was done; nothing in a clean model."""
    if method.repair is None or evidence.status == "clean":
        return pruned, {}
    model = Classifier(pruned.module, suspect.contract, run.cost).to(run.device)
    notes = method.repair(model, suspect, splits, evidence, run)
    return replace(pruned, module=model.network.eval()), notes


def prune_again(
    pruned: Pruned, notes: Mapping[str, Any], suspect: Classifier, splits: Splits, plan: Plan, run: Run
) -> Pruned:
    """What is dead after the repair goes as well, and what the repair says is guilty, as far as accuracy allows."""
    model = Classifier(pruned.module, suspect.contract, run.cost).to(run.device)
    guilty = [Filter(*pair) for pair in notes.get(GUILTY, ())]
    return joined(pruned, bury(model, guilty, splits, run, align=plan.align, max_accuracy_drop=plan.max_cut_drop))


def shown(evidence: Evidence, given: Sequence[Trigger]) -> tuple[Trigger, ...]:
    """Every trigger to measure with: those that were given, then those that the method found."""
    return (*given, *(t for t in evidence.triggers if t.source != "given"))


def scan_of(evidence: Evidence) -> Scan:
    """As reports have it, where the reason stands among other sentences."""
    why = evidence.why[:1].upper() + evidence.why[1:]
    if why and not why.endswith("."):
        why += "."
    return Scan(evidence.status, evidence.target_classes, evidence.evidence, why)


def cut_of(pruned: Pruned) -> Cut:
    return Cut(
        filters_removed=len(pruned.removed),
        filters_masked=len(pruned.masked),
        filters_total=pruned.filters_total,
        layers=tuple(layer for layer in pruned.layers if layer.before != layer.after),
        removed=pruned.removed,
        refusals=pruned.refusals,
        rounds=pruned.rounds,
        stopped_because=pruned.stopped_because,
        budget=pruned.budget,
    )
