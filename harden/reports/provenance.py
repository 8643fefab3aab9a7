"""What a run says about its files to machines, beside them.

sbom.cdx.json            CycloneDX 1.6 with a model card
test-result.intoto.json  in-toto: these very files passed, or failed, these very checks
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harden.outcome import Report
from harden.provenance import placeless, plan_sha256
from harden.reports.folder import PLAN
from harden.reports.records import encode
from harden.types import Rate

if TYPE_CHECKING:
    from harden_export.bundle import Metric

SBOM, STATEMENT = "sbom.cdx.json", "test-result.intoto.json"
BESIDE = ("model.safetensors", "pruning.json", "infer.py")
"""What lies with the exported files."""
LIMITATIONS = (
    "No scan proves that there is no backdoor: the figures hold for the images and triggers that are named.",
    "Recovered triggers are stand-ins, which can be weaker or stronger than an attacker's own.",
)


def write_provenance(report: Report, folder: Path) -> None:
    """Puts the bill of materials and the statement into a folder that has everything else."""
    files = shipped(report, folder)
    for name, document in ((SBOM, bill(report, files)), (STATEMENT, statement(report, files, folder))):
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def shipped(report: Report, folder: Path) -> list[Path]:
    """The files that would be deployed, model.onnx first."""
    assert report.export is not None
    exported = [folder / file.path for file in report.export.files]
    return [*exported, *(path for name in BESIDE if (path := exported[0].with_name(name)).is_file())]


def bill(report: Report, files: list[Path]) -> dict[str, Any]:
    """sbom.cdx.json."""
    from harden_export.bundle import Ancestor, Dataset, Software, ml_bom

    source, cut, export = report.source, report.pruned, report.export
    assert export is not None
    return ml_bom(
        name=source.path.stem,
        version=export.files[0].sha256[:12],
        description=f"{source.path.name}, examined for backdoors by harden: {report.verdict.status}.",
        files=files,
        tool=Software("harden", report.harden_version),
        libraries=[Software(n, v) for n, v in report.versions.items() if n not in ("python", "harden")],
        ancestor=Ancestor(source.path.name, source.sha256),
        architecture=placeless(architecture) if (architecture := report.contract.architecture) else None,
        metrics=list(_metrics(report)),
        datasets=[Dataset(p.name, p.sha256, f"{p.images} images") for p in report.splits if p.images],
        limitations=LIMITATIONS,
        properties={
            "harden:verdict": report.verdict.status,
            "harden:scan": report.scan.status,
            "harden:plan_sha256": plan_sha256(report.settings),
            "harden:filters_removed": str(cut.filters_removed if cut else 0),
            "harden:provider": export.provider,
        },
        created=datetime.fromisoformat(report.created),
    )


def statement(report: Report, files: list[Path], folder: Path) -> dict[str, Any]:
    """The in-toto statement. What could not be checked counts as failed: nothing skipped is reported as passed."""
    from harden_export.bundle import result_statement
    from harden_export.files import sha256

    checks = report.verdict.checks
    warned = [check.name for check in checks if check.waived]
    failed = [check.name for check in checks if check.passed is not True and not check.waived]
    policy = json.dumps(encode(report.settings["policy"]), sort_keys=True)
    return result_statement(
        files,
        result="FAILED" if failed else "WARNED" if warned else "PASSED",
        configuration={PLAN: sha256(folder / PLAN), "policy": hashlib.sha256(policy.encode()).hexdigest()},
        passed=[check.name for check in checks if check.passed is True and not check.waived],
        warned=warned,
        failed=failed,
    )


def _metrics(report: Report) -> Iterator[Metric]:
    export = report.export
    assert export is not None
    for kind, measured in (("fp32", export.measured), *((v.kind, v.measured) for v in export.variants)):
        yield from _rate("accuracy", kind, measured.accuracy)
        for attack in measured.attack_success:
            name = f"{kind}, {attack.name} ({attack.source})"
            yield from _rate("attack success", name, attack.asr)
            yield from _rate("true class in spite of the trigger", name, attack.recovered_accuracy)


def _rate(type: str, slice: str, rate: Rate) -> Iterator[Metric]:
    from harden_export.bundle import Metric

    if rate.total:
        yield Metric(type, rate.value, slice, rate.interval())
