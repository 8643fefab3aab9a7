"""A CycloneDX 1.6 bill of materials for a model, with its model card, as plain JSON.

https://cyclonedx.org/docs/1.6/json/ - cyclonedx-python-lib knows no model cards and drops them when it writes a file
(its issue 912), so the document is made by hand and a test holds it against the official schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from harden_export.files import ExportError, sha256


@dataclass(frozen=True)
class Metric:
    """One figure that was measured on the shipped file."""

    type: str
    value: float
    slice: str = ""
    """The part of the data it was measured on; empty: all of it."""
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Dataset:
    """Images that were used, by what for and by their digest."""

    name: str
    sha256: str
    description: str = ""


@dataclass(frozen=True)
class Software:
    """A program or library that took part."""

    name: str
    version: str


@dataclass(frozen=True)
class Ancestor:
    """The model that this one was made from."""

    name: str
    sha256: str


def ml_bom(
    *,
    name: str,
    version: str,
    description: str,
    files: Sequence[Path],
    tool: Software,
    libraries: Sequence[Software] = (),
    ancestor: Ancestor | None = None,
    architecture: str | None = None,
    metrics: Sequence[Metric] = (),
    datasets: Sequence[Dataset] = (),
    use_cases: Sequence[str] = (),
    limitations: Sequence[str] = (),
    properties: Mapping[str, str] | None = None,
    created: datetime | None = None,
) -> dict[str, Any]:
    """The document. `files` are the artefacts as they ship, the deployable one first."""
    if not files:
        raise ExportError("a bill of materials needs the files that ship; none were named.")
    created = created or datetime.now(UTC)
    digests = {path: sha256(path) for path in files}
    model_ref = f"model:{digests[files[0]]}"
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": model_ref,
        "name": name,
        "version": version,
        "description": description,
        "hashes": _hashes(digests[files[0]]),
        "modelCard": _card(architecture, metrics, datasets, use_cases, limitations),
    }
    if ancestor is not None:
        parent = {"type": "machine-learning-model", "name": ancestor.name, "hashes": _hashes(ancestor.sha256)}
        model["pedigree"] = {"ancestors": [parent]}
    if properties:
        model["properties"] = [{"name": key, "value": properties[key]} for key in sorted(properties)]
    shipped: list[dict[str, Any]] = [
        {"type": "file", "bom-ref": f"file:{path.name}", "name": path.name, "hashes": _hashes(digest)}
        for path, digest in digests.items()
    ]
    parts: list[dict[str, Any]] = [
        {"type": "library", "bom-ref": _purl(part), "name": part.name, "version": part.version, "purl": _purl(part)}
        for part in libraries
    ]
    data: list[dict[str, Any]] = [
        {
            "type": "data",
            "bom-ref": f"data:{dataset.name}",
            "name": dataset.name,
            "hashes": _hashes(dataset.sha256),
            "data": [{"type": "dataset", "name": dataset.name}],
        }
        | ({"description": dataset.description} if dataset.description else {})
        for dataset in datasets
    ]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid5(NAMESPACE_URL, f"{model_ref}@{created.isoformat()}").urn,
        "version": 1,
        "metadata": {
            "timestamp": created.isoformat(timespec="seconds"),
            "tools": {"components": [{"type": "application", "name": tool.name, "version": tool.version}]},
            "component": model,
        },
        "components": [*shipped, *parts, *data],
        "dependencies": [{"ref": model_ref, "dependsOn": [part["bom-ref"] for part in (*shipped, *parts, *data)]}],
    }


def _card(
    architecture: str | None,
    metrics: Sequence[Metric],
    datasets: Sequence[Dataset],
    use_cases: Sequence[str],
    limitations: Sequence[str],
) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "approach": {"type": "supervised"},
        "task": "image-classification",
        "inputs": [{"format": "image"}],
        "outputs": [{"format": "logits"}],
    }
    if architecture:
        parameters["modelArchitecture"] = architecture
    if datasets:
        parameters["datasets"] = [{"ref": f"data:{dataset.name}"} for dataset in datasets]
    card: dict[str, Any] = {"modelParameters": parameters}
    if metrics:
        card["quantitativeAnalysis"] = {"performanceMetrics": [_metric(metric) for metric in metrics]}
    considerations = {"useCases": list(use_cases), "technicalLimitations": list(limitations)}
    if any(considerations.values()):
        card["considerations"] = {key: value for key, value in considerations.items() if value}
    return card


def _metric(metric: Metric) -> dict[str, Any]:
    found: dict[str, Any] = {"type": metric.type, "value": f"{metric.value:g}"}
    if metric.slice:
        found["slice"] = metric.slice
    if metric.interval is not None:
        low, high = metric.interval
        found["confidenceInterval"] = {"lowerBound": f"{low:g}", "upperBound": f"{high:g}"}
    return found


def _hashes(digest: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": digest}]


def _purl(part: Software) -> str:
    """A package of PyPI, whose names are lower case with dashes: https://github.com/package-url/purl-spec."""
    return f"pkg:pypi/{part.name.lower().replace('_', '-')}@{part.version.replace('+', '%2B')}"
