"""SARIF 2.1.0, for code scanning: checks that did not pass, findings about the file, and guilty filters.

Rule ids are stable: `policy/NAME` for checks, `filter/removed` and `filter/masked`, the finding's own for the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from harden.outcome import Report
from harden.types import Check, Finding

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"info": "note", "low": "note", "medium": "warning", "high": "error", "critical": "error"}
SCORES = {"info": "0.0", "low": "3.0", "medium": "5.0", "high": "8.0", "critical": "9.5"}
"""What code scanning sorts by."""
MOST_FILTERS = 1000
"""Code scanning takes 25 000 results and shows 5 000; a list of thousands of filters helps nobody."""

RULES = {
    "policy/images": ("Enough images to decide on", "Add clean images, or give others with --verify-dir."),
    "policy/scan": ("No untreated backdoor", "Run `harden clean`, or ask whoever made the model for another."),
    "policy/findings": ("Nothing dangerous in the model file", "Look at `harden inspect`; ask for safetensors."),
    "policy/accuracy-drop": ("Accuracy is kept", "More clean images to repair with help most."),
    "policy/class-accuracy-drop": ("The accuracy of every class is kept", "Add clean images of the class that lost."),
    "policy/attack-success": ("Triggers do not work any more", "Try another --method, or more clean images."),
    "policy/onnx-parity": ("The file computes what the network does", "Report it: the exporter changed the network."),
    "policy/latency": ("The file is fast enough", "Keep layers at multiples of 8: --align 8."),
    "policy/size": ("The file is small enough", "Export int8."),
    "policy/filters-removed": ("Not too much was cut", "Try another --method."),
    "policy/int8-accuracy-drop": ("The int8 file keeps its accuracy", "Ship the fp32 file."),
    "filter/removed": ("A filter was cut out of the network", "Nothing: it is the cure. Look at its layer if many go."),
    "filter/masked": (
        "A guilty filter is switched off, and still in the file",
        "The message says why it could not go.",
    ),
}


def sarif_text(report: Report) -> str:
    """The text of results.sarif."""
    return json.dumps(sarif(report), indent=1, ensure_ascii=False) + "\n"


def sarif(report: Report) -> dict[str, Any]:
    """The log: one run, its rules, its results."""
    results = list(_results(report))
    ids = sorted({result["ruleId"] for result in results})
    for result in results:
        result["ruleIndex"] = ids.index(result["ruleId"])
    driver = {
        "name": "harden",
        "version": report.harden_version,
        "semanticVersion": report.harden_version,
        "rules": [_rule(name) for name in ids],
    }
    run = {
        "tool": {"driver": driver},
        "results": results,
        "columnKind": "utf16CodeUnits",
        "properties": {"verdict": report.verdict.status, "seed": report.seed, "sha256": report.source.sha256},
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(name: str) -> dict[str, Any]:
    short, help_text = RULES.get(name, (f"Finding about the model file: {name}", "See `harden inspect`."))
    return {
        "id": name,
        "name": "".join(part.capitalize() for part in name.replace("/", "-").split("-")),
        "shortDescription": {"text": short},
        "help": {"text": help_text},
        "properties": {"tags": ["security", "machine-learning"]},
    }


def _results(report: Report) -> Iterator[dict[str, Any]]:
    uri = _uri(report)
    for check in report.verdict.checks:
        if check.passed is not True:
            yield _of_check(check, uri)
    for finding in report.source.findings:
        yield _of_finding(finding, uri)
    if report.pruned is not None:
        reasons = {refusal.filter: refusal.reason for refusal in report.pruned.refusals}
        for filter in report.pruned.removed[:MOST_FILTERS]:
            yield _result("filter/removed", "note", f"{filter} was cut out.", uri, str(filter), "0.0")
        for filter, reason in list(reasons.items())[:MOST_FILTERS]:
            yield _result("filter/masked", "note", f"{filter} is switched off: {reason}", uri, str(filter), "1.0")


def _of_check(check: Check, uri: str) -> dict[str, Any]:
    rule = "/".join(["policy", check.name.split("/")[0]])
    level, score = ("error", "8.0") if check.passed is False else ("warning", "5.0")
    result = _result(rule, level, f"{check.name}: {check.why} {check.todo}".rstrip(), uri, check.name, score)
    if check.waived:
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": check.waived}]
    return result


def _of_finding(finding: Finding, uri: str) -> dict[str, Any]:
    where = f" ({finding.location})" if finding.location else ""
    severity = finding.severity
    return _result(
        finding.rule, LEVELS[severity], finding.message + where, uri, finding.location or "file", SCORES[severity]
    )


def _result(rule: str, level: str, message: str, uri: str, place: str, score: str) -> dict[str, Any]:
    digest = hashlib.sha256(f"{rule}\0{place}".encode()).hexdigest()[:32]
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": message},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}},
                "logicalLocations": [{"fullyQualifiedName": place}],
            }
        ],
        "partialFingerprints": {"harden/v1": digest},
        "properties": {"security-severity": score},
    }


def _uri(report: Report) -> str:
    """Relative, as code scanning asks for: an absolute path is cut down to the file's name."""
    from urllib.parse import quote

    path = PurePath(report.source.path)
    return quote(path.name if path.is_absolute() or ".." in path.parts else path.as_posix())
