"""`harden export`: a model as it is, in the kinds of files that were asked for, each with what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from harden import stages
from harden.errors import UsageError
from harden.job import Job
from harden.network import Classifier, classifier
from harden.outcome import Exported
from harden.plan import Plan
from harden.provenance import metadata, portions
from harden.reports import words
from harden.reports.records import REPORT, read_report
from harden.runfolder import RunFolder
from harden.shipping import Parcel, check, write_files
from harden.types import Images, Progress, Pruned, Source, Splits
from harden.verification import load_run


@dataclass(frozen=True)
class Exports:
    """What came of an export."""

    folder: Path
    export: Exported


def export(plan: Plan, progress: Progress) -> Exports:
    """Writes them into a new folder; parity is measured on clean images, or on random ones where none were given."""
    if "int8" in plan.kinds and plan.clean_dir is None:
        raise UsageError("int8 takes its scales from clean images, and there are none.", hint="Give --clean-dir.")
    check(plan)
    job = Job.start(plan, progress)
    with job.stage("load"):
        model, source = _opened(plan)
    with job.stage("read images"):
        splits = stages.read_splits(plan, model.contract, job.run) if plan.clean_dir else _random(model)
    target = plan.need("out", "--out")
    with RunFolder(target) as folder, job.stage("export"):
        unchanged = Pruned(model.network, (), (), (), (), 0, {})
        about = metadata(model.contract, source, unchanged, portions(splits) if plan.clean_dir else ())
        found = write_files(Parcel(unchanged, model.contract, splits, (), about), plan, folder.path)
        folder.publish()
    return Exports(target, found)


def lines(found: Exports) -> Iterator[str]:
    """For the terminal."""
    for file in words.files(found.export):
        yield f"{found.folder / file.path}: {file.size}, {file.accuracy} accuracy; {file.parity}"
        if file.note:
            yield f"  {file.note}"
    yield from (f"  {line}" for line in words.speeds(found.export))
    yield from words.withheld(found.export)


def _opened(plan: Plan) -> tuple[Classifier, Source]:
    path = plan.need("model", "MODEL")
    if path.is_dir() and (path / REPORT).is_file():
        report = read_report(path)
        return Classifier(load_run(path, plan.arch), report.contract).eval(), report.source
    suspect = stages.open_suspect(plan)
    return classifier(suspect), suspect.source


def _random(model: Classifier) -> Splits:
    """Noise, for parity only: there is no accuracy to be had of it."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(32, *model.contract.input_size, generator=generator)
    noise = Images(pixels, torch.full((32,), -1), tuple(f"noise {i}" for i in range(32)))
    return Splits(noise, noise, noise)
