"""From a file to a verdict, as one sentence."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harden import __version__, provenance, stages
from harden.job import Job, versions
from harden.judge import judge
from harden.measure import measure
from harden.network import Classifier, classifier
from harden.outcome import QUARANTINE, Report
from harden.pictures import draw
from harden.plan import Plan, plan_table
from harden.pruning import rebuild
from harden.registry import planned, settings_of
from harden.resume import Kept, key
from harden.shipping import Parcel, write_files
from harden.types import Evidence, Measurement, Method, Progress, Silent, Splits, Suspect, Trigger, Verdict

UNDECIDED = Verdict("inconclusive", ())


def clean(plan: Plan, folder: Path, progress: Progress | None = None, kept: Kept | None = None) -> Report:
    """Scans, cuts, repairs, exports, measures and judges; leaves in `folder` what may ship, or what may not."""
    job, method, kept = Job.start(plan, progress or Silent()), planned(plan), kept or Kept()
    found = examine(plan, method, job, kept, leave=stages.AFTER_RECOVER)
    suspect, model, splits, evidence, triggers = (
        found.suspect,
        found.model,
        found.splits,
        found.evidence,
        found.triggers,
    )
    with job.stage("prune"):
        pruned = kept.pruned("prune", job, model, lambda: stages.prune(method, model, splits, evidence, plan, job.run))
    with job.stage("repair"):
        healed, notes = kept.pruned(
            "repair", job, model, lambda: stages.repair(method, pruned, model, splits, evidence, job.run)
        )
    if plan.prune:
        with job.stage("prune again"):
            again = partial(stages.prune_again, healed, notes, model, splits, plan, job.run)
            healed = kept.pruned("prune again", job, model, again)
    with job.stage("measure after"):
        healed_model = Classifier(healed.module, suspect.contract, job.run.cost).to(job.run.device)
        after = measure(healed_model, splits.verify, triggers)
        pictures = draw(triggers, splits.verify, model, healed_model, folder)
    report = replace(first_half("clean", plan, method, job, found), pictures=pictures, repair=notes)
    with job.stage("export"):
        draft = folder / "draft"
        about = provenance.metadata(suspect.contract, suspect.source, healed, report.splits, report.settings)
        exported = write_files(Parcel(healed, suspect.contract, splits, triggers, about, model), plan, draft)
        rebuild.save(healed, draft, suspect.source)
    report = replace(report, export=exported, data=report.data + kept.findings)
    if evidence.status != "clean" or healed.removed:
        report = replace(report, pruned=stages.cut_of(healed), after=after)
    report = replace(report, verdict=judge(report, plan.policy))
    return publish(report, draft, folder)


def scan(plan: Plan, folder: Path | None = None, progress: Progress | None = None) -> Report:
    """Evidence and a verdict; nothing is changed. Pictures only where there is a folder for them."""
    job, method = Job.start(plan, progress or Silent()), planned(plan)
    found = examine(plan, method, job, Kept())
    pictures = draw(found.triggers, found.splits.verify, found.model, found.model, folder) if folder else ()
    report = replace(first_half("scan", plan, method, job, found), pictures=pictures)
    return replace(report, verdict=judge(report, plan.policy))


@dataclass(frozen=True, eq=False)
class Examined:
    """What is known of a suspect before anything is changed."""

    suspect: Suspect
    model: Classifier
    splits: Splits
    evidence: Evidence
    triggers: tuple[Trigger, ...]
    """To measure with."""
    before: Measurement


def examine(plan: Plan, method: Method, job: Job, kept: Kept, leave: float = 0.0) -> Examined:
    """Opens the file, reads the images, looks for triggers, measures; leaves so much of a time budget unspent."""
    with job.stage("load"):
        suspect = stages.open_suspect(plan)
        model = classifier(suspect, job.run.cost).to(job.run.device)
        given = stages.given_triggers(plan, suspect.contract)
    with job.stage("read images"):
        splits = stages.read_splits(plan, suspect.contract, job.run).to(job.run.device)
        stages.check(model, splits)
        kept.begin(lambda: key(plan, method, suspect, splits, given, job.run.device), given)
    with job.stage("recover"):
        told = () if plan.hide_trigger else given
        evidence = kept.stage(
            "recover", job, lambda: stages.recover(method, model, splits, told, job.run.leaving(leave))
        )
        triggers = stages.shown(evidence, given)
    with job.stage("measure before"):
        before = measure(model, splits.verify, triggers)
    return Examined(suspect, model, splits, evidence, triggers, before)


def first_half(command: str, plan: Plan, method: Method, job: Job, found: Examined) -> Report:
    """The report as far as the examination goes."""
    return Report(
        command=command,
        created=job.created,
        harden_version=__version__,
        seed=plan.seed,
        seconds=job.seconds,
        cost=job.run.cost,
        source=found.suspect.source,
        contract=found.suspect.contract,
        scan=stages.scan_of(found.evidence),
        before=found.before,
        verdict=UNDECIDED,
        data=found.splits.findings,
        settings=plan_table(plan, settings=settings_of(method)),
        versions=versions(),
        splits=provenance.portions(found.splits),
    )


def publish(report: Report, draft: Path, folder: Path) -> Report:
    """Moves the draft's files to where they may be used, or to where nobody takes them by mistake."""
    where = "" if report.verdict.status == "pass" else f"{QUARANTINE}/"
    (folder / where).mkdir(exist_ok=True)
    for file in sorted(draft.iterdir()):
        file.replace(folder / where / file.name)
    shutil.rmtree(draft)
    assert report.export is not None
    files = tuple(replace(file, path=where + file.path) for file in report.export.files)
    return replace(report, export=replace(report.export, files=files))
