"""harden from Python: the same verbs, settings and results as on the command line. Nothing is printed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harden import pipeline, shipping, verification
from harden.loading import Inspection
from harden.loading import inspect as inspect_file
from harden.outcome import Report
from harden.plan import Plan, settle
from harden.reports.folder import write_reports
from harden.reports.provenance import write_provenance
from harden.resume import Kept
from harden.runfolder import RunFolder, default_folder
from harden.stages import folder_names
from harden.types import Progress
from harden.verification import Verification

if TYPE_CHECKING:
    from torch import nn


def clean(
    model: str | Path | None = None,
    *,
    plan: str | Path | None = None,
    progress: Progress | None = None,
    resume: bool = False,
    **settings: Any,
) -> Report:
    """`harden clean`: settings are the flags with underscores; the run folder is `out`, or a new one in harden-runs."""
    wanted = _plan(model, plan, settings)
    return clean_to(wanted, out_folder(wanted), progress, resume=resume)


def clean_to(plan: Plan, out: Path, progress: Progress | None = None, *, resume: bool = False) -> Report:
    """A whole run into a folder that appears when everything in it is there."""
    shipping.check(plan)
    kept = Kept(out.absolute().parent, resume=resume)
    try:
        with RunFolder(out) as folder:
            report = pipeline.clean(plan, folder.path, progress, kept)
            write_reports(report, plan, folder.path, out)
            write_provenance(report, folder.path)
            folder.publish(lambda path: shipping.sign(path, plan, report.verdict))
    except BaseException as error:
        if kept.note:
            error.add_note(kept.note)
        raise
    kept.forget()
    return report


def scan(
    model: str | Path | None = None,
    *,
    plan: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Report:
    """`harden scan`: evidence and a verdict; a folder is only written where `out` is given."""
    wanted = _plan(model, plan, settings)
    return scan_to(wanted, wanted.out, progress)


def scan_to(plan: Plan, out: Path | None, progress: Progress | None = None) -> Report:
    """A scan, with its reports in a folder if there is to be one."""
    if out is None:
        return pipeline.scan(plan, None, progress)
    with RunFolder(out) as folder:
        report = pipeline.scan(plan, folder.path, progress)
        write_reports(report, plan, folder.path, out)
        folder.publish()
    return report


def inspect(model: str | Path, **settings: Any) -> Inspection:
    """`harden inspect`: what the file is, opened without running it."""
    return inspect_plan(_plan(model, None, settings))


def inspect_plan(plan: Plan) -> Inspection:
    return inspect_file(
        plan.need("model", "MODEL"),
        arch=plan.arch,
        contract_file=plan.contract,
        classes=folder_names(plan.clean_dir),
        mean=plan.mean,
        std=plan.std,
        input_size=plan.input_size,
        max_size=plan.max_input,
    )


def verify(
    artefact: str | Path,
    data_dir: str | Path,
    *,
    accuracy_only: bool = False,
    public_key: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Verification:
    """`harden verify`: accuracy and attack success of a model file, an .onnx file or a run folder.

    Without a trigger its verdict is inconclusive, unless `accuracy_only` says that nobody asks about backdoors.
    """
    plan = _plan(artefact, None, {**settings, "verify_dir": data_dir})
    key = None if public_key is None else Path(public_key)
    return verification.verify(plan, progress, accuracy_only=accuracy_only, public_key=key)


def load_run(folder: str | Path, arch: str | None = None) -> nn.Module:
    """The pruned network of a finished run, ready to be used in place of the original."""
    return verification.load_run(Path(folder), arch)


def out_folder(plan: Plan) -> Path:
    """--out, or a new folder named after the model and the time."""
    return plan.out or default_folder(plan.need("model", "MODEL"), datetime.now())


def _plan(model: str | Path | None, plan: str | Path | None, settings: dict[str, Any]) -> Plan:
    flags = {key: value for key, value in settings.items() if value is not None}
    if model is not None:
        flags["model"] = model
    return settle(flags, None if plan is None else Path(plan))
