"""What any artefact does on images: a model file, an .onnx file, or a finished run with all that it ships."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harden import stages
from harden.data import read_images
from harden.errors import BadModel, UnsafeFile, UsageError
from harden.job import Job
from harden.judge import attack_successes, images, verdict_of
from harden.loading import architecture
from harden.measure import measure, measure_file
from harden.network import Classifier, classifier
from harden.outcome import QUARANTINE, ShippedFile
from harden.plan import Plan
from harden.policy import Policy
from harden.pruning.rebuild import RECORD, read, rebuild
from harden.reports.records import REPORT, read_report
from harden.shipping import ONNX
from harden.types import Check, Contract, Finding, Images, Measurement, Progress, Silent, Trigger, Verdict

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Verified:
    """One file, measured."""

    path: str
    kind: str
    """network: run by torch; onnx: run by ONNX Runtime."""
    measured: Measurement


@dataclass(frozen=True)
class Verification:
    """All the files of an artefact, measured on the same images, and judged as far as they can be without a before."""

    artefact: str
    contract: Contract
    files: tuple[Verified, ...]
    findings: tuple[Finding, ...]
    verdict: Verdict
    accuracy_only: bool = False
    """Nobody asked about backdoors, and the verdict says nothing about them."""


def verify(
    plan: Plan, progress: Progress | None = None, *, accuracy_only: bool = False, public_key: Path | None = None
) -> Verification:
    """Measures `plan.model` on the images of `plan.verify_dir`; with a key, only what was signed with its like.

    Without a trigger nothing was seen of a backdoor: that is a check that was not made, unless only the accuracy is
    wanted. A finished run is no exception, since its recovered triggers are kept as pictures and not as functions.
    """
    if accuracy_only and (plan.trigger is not None or plan.trigger_dir is not None):
        raise UsageError("--accuracy-only and a trigger both came.", hint="Drop one of them.")
    job = Job.start(plan, progress or Silent())
    path = plan.need("model", "MODEL")
    signed = [_signed(path, public_key)] if public_key is not None else []
    with job.stage("load"):
        contract, parts, checks = _opened(path, plan, job)
        triggers = stages.given_triggers(plan, contract)
    with job.stage("read images"):
        data, findings = read_images(plan.need("verify_dir", "--data-dir"), contract, progress=job.run.progress)
    with job.stage("measure"):
        files = tuple(_measured(part, contract, data, triggers, job) for part in parts)
    checks = signed + checks + [check for file in files for check in _checks(file, plan.policy, accuracy_only)]
    verdict = Verdict(verdict_of(checks, plan.policy), tuple(checks))
    return Verification(str(path), contract, files, findings, verdict, accuracy_only)


def _signed(run: Path, public_key: Path) -> Check:
    """Nothing of the folder is opened before this."""
    from harden_export.signing import TamperedError, verify_folder

    if not run.is_dir():
        raise UsageError(f"--public-key is for the folder of a run, and {run} is a file.")
    try:
        verify_folder(run, public_key)
    except TamperedError as error:
        raise UnsafeFile(error.message, hint=error.hint) from error
    return Check("signature", None, None, True, f"Every file is as it was signed, with the key of {public_key.name}.")


def load_run(folder: Path, arch: str | None = None) -> nn.Module:
    """The pruned network of a finished run, in eval mode: it takes normalised images, as the original did.

    The architecture is that of the record. One that is code (FILE.py:FUNCTION) is only run if you name it.
    """
    folder = artefacts(Path(folder))
    record, state = read(folder)
    spec = arch or record.get("architecture")
    if not isinstance(spec, str):
        raise UsageError("The run does not say which architecture it is of.", hint=_give("SPEC"))
    if arch is None and not spec.startswith(("torchvision:", "timm:")):
        raise UsageError(f"The run's architecture is code: {spec}.", hint=f"If you trust it: {_give(spec)}")
    channels = record["input_size"][0]
    fresh = architecture.build(architecture.architecture(spec), record["num_classes"], channels)
    return rebuild(fresh, record, state)


def _give(spec: str) -> str:
    """The hint in both tongues, since load_run is called by the command line and by programs."""
    return f"Give it with --arch {shlex.quote(spec)} (in Python: arch={spec!r})."


def artefacts(run: Path) -> Path:
    """Where a run's files lie: in it, or in its quarantine."""
    return run if (run / RECORD).exists() or (run / ONNX).exists() else run / QUARANTINE


Part = tuple[Path, Any]
"""A path, and what lies there: a Classifier or an OnnxModel."""


def _opened(path: Path, plan: Plan, job: Job) -> tuple[Contract, list[Part], list[Check]]:
    if path.is_dir() and (path / REPORT).is_file():
        return _opened_run(path, plan, job)
    if path.suffix.lower() == ".onnx":
        return _opened_onnx(path, plan)
    suspect = stages.open_suspect(plan)
    return suspect.contract, [(path, classifier(suspect, job.run.cost).to(job.run.device))], []


def _opened_onnx(path: Path, plan: Plan) -> tuple[Contract, list[Part], list[Check]]:
    from harden_export.runtime import OnnxModel

    model = OnnxModel(path, plan.provider)
    return onnx_contract(path, model.metadata, model.output_shape, plan), [(path, model)], []


def onnx_contract(path: Path, metadata: Mapping[str, str], shape: Sequence[int | str | None], plan: Plan) -> Contract:
    """The contract of an ONNX file: the command line, then the contract file, then what the file says of itself."""
    from harden.loading.contract import check_entries, contract_file, read_contract, settle

    flags = {"mean": plan.mean, "std": plan.std, "input_size": plan.input_size}
    said: list[tuple[str, Mapping[str, Any]]] = [("the command line", check_entries(flags, "the command line"))]
    beside = contract_file(path, plan.contract)
    if beside is not None:
        said.append((beside.name, read_contract(beside).entries))
    try:
        own = {key: json.loads(metadata[key]) for key in ("classes", "input_size", "mean", "std") if key in metadata}
    except ValueError as error:
        raise BadModel(f"{path}: its metadata is damaged: {error}.") from error
    said.append(("the model file", check_entries(own, str(path))))
    logits = shape[-1] if len(shape) == 2 and isinstance(shape[-1], int) else None
    return settle(said, logits, stages.folder_names(plan.verify_dir))[0]


def _opened_run(run: Path, plan: Plan, job: Job) -> tuple[Contract, list[Part], list[Check]]:
    """Every file that the run's report names, and the rebuilt network; a file that was changed since is a failure."""
    from harden_export.files import sha256
    from harden_export.runtime import OnnxModel

    report = read_report(run)
    parts: list[Part] = []
    checks: list[Check] = []
    for file in report.export.files if report.export else ():
        path = run / file.path
        checks.append(_unchanged(path, file, sha256(path) if path.is_file() else None))
        if path.is_file() and path.suffix == ".onnx":  # a .pt2 file is a program: it is compared and not run
            parts.append((path, OnnxModel(path, plan.provider)))
    home = artefacts(run)
    if (home / RECORD).is_file():
        module = load_run(run, plan.arch)
        network = Classifier(module, report.contract, job.run.cost).to(job.run.device)
        parts.append((home / RECORD, network))
    if not parts:
        raise BadModel(f"{run} ships no file.", hint="A run of `harden scan` changes nothing; verify the model itself.")
    return report.contract, parts, checks


def _unchanged(path: Path, file: ShippedFile, found: str | None) -> Check:
    if found is None:
        return Check(f"unchanged/{file.path}", None, None, None, f"{path} is not there any more.")
    same = found == file.sha256
    why = (
        "The file is the one that was judged."
        if same
        else f"{path} was changed after it was judged. Run `harden clean` again."
    )
    return Check(f"unchanged/{file.path}", None, None, same, why)


def _measured(part: Part, contract: Contract, data: Images, triggers: Sequence[Trigger], job: Job) -> Verified:
    path, model = part
    if isinstance(model, Classifier):
        return Verified(str(path), "network", measure(model, data.to(job.run.device), triggers))
    return Verified(str(path), "onnx", measure_file(model, contract, data, triggers))


def _checks(file: Verified, policy: Policy, accuracy_only: bool) -> Iterator[Check]:
    attacks = list(attack_successes(file.measured, policy))
    if not attacks and not accuracy_only:
        attacks = [Check("attack-success", None, None, None, _not_made(file.measured))]
    for check in (images(file.measured, policy), *attacks):
        yield replace(check, name=f"{check.name} ({Path(file.path).name})")


def _not_made(measured: Measurement) -> str:
    if measured.attack_success:
        return "The policy sets no bound for the trigger that was given."
    return "Not measured: no trigger was given. Give one with --trigger and --target, or ask for --accuracy-only."
