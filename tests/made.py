"""A report made by hand: a model of four classes, backdoored, cut by a quarter, and healed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harden.outcome import Cut, Exported, Parity, Picture, Report, Scan, ShippedFile, Speed, Variant, Withheld
from harden.types import (
    AttackResult,
    Attempt,
    Budgeted,
    Check,
    ClassEvidence,
    Contract,
    Cost,
    Filter,
    Finding,
    LayerWidth,
    Measurement,
    Rate,
    Refusal,
    Round,
    Source,
    Status,
    Verdict,
)

CLASSES = ("class 0", "class 1", "class 2", "class 3")
ALL_RIGHT = Rate(400, 400)
MOSTLY = Rate(395, 400)
PASSED = AttackResult("given", "sticker", 0, Rate(0, 300), Rate(297, 300))


def measured(accuracy: Rate, per_class: tuple[Rate, ...], attacks: tuple[AttackResult, ...], size: int) -> Measurement:
    return Measurement(accuracy, per_class, attacks, parameters=size, macs=100 * size)


def report(
    *,
    accuracy_after: Rate = ALL_RIGHT,
    per_class_after: tuple[Rate, ...] = (Rate(100, 100),) * 4,
    attacks: tuple[AttackResult, ...] = (PASSED,),
    status: Status = "backdoored",
    parity: float = 1e-6,
    verdict: Verdict | None = None,
    classes: tuple[str, ...] = CLASSES,
    source: str = "models/suspect.pt",
) -> Report:
    """Passes the default policy, but for what was changed."""
    was = tuple(
        AttackResult(a.source, a.name, a.target, Rate(a.asr.total, a.asr.total), Rate(0, a.asr.total)) for a in attacks
    )
    before = measured(Rate(400, 400), (Rate(100, 100),) * 4, was, 1000)
    after = measured(accuracy_after, per_class_after, attacks, 700)
    rounds = (
        Round(0, (), 0.0, Rate(99, 100), 4.5, 0.1, Rate(98, 100)),
        Round(1, (Filter("conv1", 3),), 0.9, Rate(99, 100), 1.5, 0.1, Rate(50, 100)),
        Round(2, (Filter("conv2", 1),), 0.5, Rate(98, 100), 3.0, 0.2, Rate(0, 100)),
    )
    return Report(
        command="clean",
        created="2026-01-01T12:00:00+00:00",
        harden_version="0.1.0",
        seed=7,
        seconds={"load": 0.5, "prune": 12.25},
        cost=Cost(1000, 500),
        source=Source(Path(source), "ab" * 32, "torch-zip", 5000, (Finding("weights-prefix", "low", "a prefix"),)),
        contract=Contract(4, classes, (3, 8, 8), (0.5,) * 3, (0.25,) * 3, "torchvision:resnet18"),
        scan=Scan(status, (0,) if status == "backdoored" else (), (ClassEvidence(0, 5.5, 2.0, "patch"),), "why"),
        before=before,
        verdict=verdict or Verdict("pass", (Check("images", 400, 50, True, "400 images."),)),
        pruned=None
        if status == "clean"
        else Cut(
            filters_removed=4,
            filters_masked=1,
            filters_total=16,
            layers=(LayerWidth("conv1", 8, 4),),
            removed=(Filter("conv1", 3), Filter("conv1", 4), Filter("conv1", 5), Filter("conv1", 6)),
            refusals=(Refusal(Filter("conv2", 1), "coupled"),),
            rounds=rounds,
            stopped_because="no candidate gains",
        ),
        after=None if status == "clean" else after,
        export=Exported(
            20,
            (ShippedFile("model.onnx", "fp32", "cd" * 32, 1000),),
            Parity(1e-5, parity, Rate(400, 400)),
            after,
            (
                Speed("original", 1, 1, 2.0, 2.2, 1.0, 1.0, 1.0),
                Speed("hardened", 1, 1, 1.0, 1.1, 2.0, 1.9, 2.1),
            ),
        ),
        data=(Finding("image-unreadable", "medium", "one image could not be read", "class 1/x.png"),),
        pictures=(
            Picture("sticker", "given", "class 1/1.png", "triggers/a.png", "triggers/b.png", "triggers/c.png", 1, 0, 1),
        ),
        repair={"epochs": 3},
        settings={"seed": 7, "method": {"name": "auto", "prune": {"rounds": 5}}, "policy": {"min_images": 50}},
        versions={"torch": "2.15"},
    )  # fmt: skip


def with_kinds(
    run: Report,
    accuracy: Rate = ALL_RIGHT,
    asr: Rate = PASSED.asr,
    relative: float = 0.1,
    agreement: Rate = MOSTLY,
    kind: str = "int8",
) -> Report:
    """The same run, with a file of another kind that is measured as given, and one withheld."""
    assert run.export is not None
    attacks = tuple(replace(a, asr=asr) for a in run.export.measured.attack_success)
    parity = Parity(1.0, relative, agreement, 0.1, 0.01, "class 1/1.png", (1, 7, 32), 0.5, 0.85, "256 steps")
    variant = Variant(kind, parity, replace(run.export.measured, accuracy=accuracy, attack_success=attacks), "note")
    export = replace(
        run.export,
        files=(*run.export.files, ShippedFile(f"model.{kind}.onnx", kind, "ef" * 32, 300)),
        latency=(*run.export.latency, Speed("hardened", 1, 1, 0.5, 0.6, 4.0, 3.8, 4.2, kind, 0.4)),
        variants=(*run.export.variants, variant),
        withheld=(Withheld("int8" if kind == "fp16" else "fp16", "not worth it here: it is no faster"),),
    )
    return replace(run, export=export)


def with_budget(run: Report) -> Report:
    """The same run, in which a speed was asked for and reached."""
    assert run.pruned is not None
    tries = Attempt(0.5, 900, 2.0, 1.9, True), Attempt(0.4, 950, 1.6, 1.55, True, Rate(99, 100))
    return replace(run, pruned=replace(run.pruned, budget=Budgeted(1.5, None, 0.01, True, "reached: 1.5 times", tries)))
