"""report.json says all that the report says, and its schema holds it to that."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from harden.errors import BadData
from harden.outcome import Report
from harden.reports import records
from harden.types import Check, ClassEvidence, Rate, Verdict
from tests.made import report, with_budget, with_kinds

SCHEMA = json.loads((Path(records.__file__).parent / "report.schema.json").read_text(encoding="utf-8"))


def variants() -> list[Report]:
    scanned = replace(report(), command="scan", pruned=None, after=None, export=None, pictures=())
    return [report(), with_kinds(report()), with_budget(report()), report(status="clean"), report(attacks=()), scanned]


@pytest.mark.parametrize("run", variants())
def test_it_is_valid_and_reads_back_as_it_was(run: Report, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(records.dumps(run), encoding="utf-8")
    jsonschema.validate(json.loads(records.dumps(run)), SCHEMA)
    again = records.read_report(tmp_path)
    assert records.dumps(again) == records.dumps(run)
    assert again == replace(run, verdict=again.verdict)
    assert list(again.verdict.checks) == list(run.verdict.checks)


def test_the_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_rates_are_counts() -> None:
    found = json.loads(records.dumps(report()))
    assert found["after"]["accuracy"] == {"hits": 400, "total": 400}
    assert found["scan"]["evidence"] == [{"class": 0, "score": 5.5, "threshold": 2.0, "method": "patch"}]
    moved = replace(report(), scan=replace(report().scan, evidence=(ClassEvidence(-1, 9.8, 2.0, "patch"),)))
    assert json.loads(records.dumps(moved))["scan"]["evidence"][0]["class"] == -1  # of no single class
    assert found["pruned"]["refusals"] == [{"filter": "conv2[1]", "reason": "coupled"}]


def test_what_is_no_number_is_null_and_comes_back_as_none() -> None:
    verdict = Verdict("inconclusive", (Check("x", math.nan, None, None, "why"),))
    found = json.loads(records.dumps(report(verdict=verdict)))
    assert found["verdict"]["checks"][0]["observed"] is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("before", "accuracy"), 0.97),
        (("before", "accuracy", "hits"), -1),
        (("verdict", "status"), "passed"),
        (("scan", "status"), "ok"),
        (("schema",), 2),
        (("extra",), 1),
        (("source", "sha256"), "x"),
    ],
)
def test_the_schema_refuses_what_does_not_belong(path: tuple[str, ...], value: Any) -> None:
    found = json.loads(records.dumps(report()))
    place = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, SCHEMA)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "damaged"),
        ("[]", "schema 'list'"),
        ('{"schema": 2}', "schema 2"),
        ('{"schema": 1, "seed": "x"}', "TypeError"),
    ],
)
def test_a_damaged_report_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadData, match=said):
        records.read_report(tmp_path)


def test_a_folder_without_a_report_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="cannot be read"):
        records.read_report(tmp_path)


def test_a_rate_of_nothing_survives() -> None:
    run = report(accuracy_after=Rate(0, 0))
    assert json.loads(records.dumps(run))["after"]["accuracy"] == {"hits": 0, "total": 0}
