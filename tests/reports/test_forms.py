"""Every form of the report: valid by its own rules, and deaf to what a hostile model calls itself."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
import torch
from rich.console import Console

from harden.judge import judge
from harden.outcome import Report
from harden.pictures import save
from harden.policy import Policy
from harden.reports.console import show_report
from harden.reports.html import html
from harden.reports.junit import junit
from harden.reports.markdown import markdown
from harden.reports.sarif import LEVELS, MOST_FILTERS, sarif
from harden.types import AttackResult, Check, ClassEvidence, Filter, Finding, Rate, Refusal, Verdict
from tests.made import CLASSES, report, with_budget, with_kinds

EVIL = "<script>alert(1)</script>\"'&|`![x](javascript:1)\x1b[31m"
CHECKS = (
    Check("images", 400, 50, True, "enough"),
    Check("accuracy-drop", 0.5, 0.02, False, "too much"),
    Check("onnx-parity", None, 1e-4, None, "no file"),
    Check("size", 2.0, 1.0, False, "too large", waived="until 2027-01-01: known"),
)


def judged() -> Report:
    return report(verdict=Verdict("fail", CHECKS))


def hostile() -> Report:
    """Everything that comes from the model file or the folders says something evil."""
    run = report(classes=tuple(f"{EVIL}{k}" for k in range(4)), source=EVIL.replace("/", ""))
    attack = AttackResult("recovered", EVIL, 0, Rate(1, 300), Rate(290, 300))
    finding = Finding("rule", "high", EVIL, EVIL)
    cut = run.pruned
    assert cut is not None
    return replace(
        run,
        before=replace(run.before, attack_success=(attack,)),
        source=replace(run.source, findings=(finding,), format=EVIL),
        export=run.export and replace(run.export, measured=replace(run.final, attack_success=(attack,))),
        pruned=replace(cut, refusals=(Refusal(Filter(EVIL, 1), EVIL),), stopped_because=EVIL),
        scan=replace(run.scan, why=EVIL, evidence=(ClassEvidence(0, 3.0, 2.0, EVIL),)),
        verdict=Verdict("fail", (Check(EVIL, 1.0, 0.0, False, EVIL, waived=EVIL),)),
        settings={"method": {"name": EVIL}, EVIL: EVIL},
        versions={"torch": EVIL},
        pictures=tuple(replace(p, trigger=EVIL, image=EVIL) for p in run.pictures),
    )


class Page(HTMLParser):
    """What a browser would make of a page."""

    VOID = ("meta", "img", "link", "br", "line", "rect", "polyline")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        save(torch.rand(3, 8, 8), tmp_path / "triggers" / f"{name}.png")
    return tmp_path


def test_the_page_is_well_formed_and_shows_the_verdict_first(folder: Path) -> None:
    page = Page(html(judged(), folder))
    assert page.open == []
    assert page.text.index("FAIL: must not ship") < page.text.index("Before and after")
    assert page.text.index("too much") < page.text.index("Before and after")
    assert "no candidate gains" in page.text
    for name in CLASSES:
        assert name in page.text


def test_the_page_needs_nothing_from_anywhere(folder: Path) -> None:
    text = html(judged(), folder)
    page = Page(text)
    assert page.all("script") == page.all("link") == page.all("iframe") == []
    words = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"(?:https?:)?//[a-z]", words)
    images = page.all("img")
    assert len(images) == 3
    assert all((image["src"] or "").startswith("data:image/png;base64,") and image["alt"] for image in images)
    curve, speeds = [svg["aria-label"] for svg in page.all("svg") if svg.get("role") == "img"]
    assert curve == "Accuracy, attack success and unlearning loss against up to 2 closed filters; 2 were chosen."
    assert speeds == ("hardened, batch 1, 1 thread: 1.00 ms, 2.00 times as fast as the original (1.90 to 2.10)")


def test_headings_go_down_one_step_at_a_time(folder: Path) -> None:
    levels = [int(tag[1]) for tag, _ in Page(html(judged(), folder)).tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_a_scan_and_a_clean_model_have_pages_too(folder: Path) -> None:
    scanned = replace(report(), command="scan", pruned=None, after=None, export=None)
    assert "after</th>" not in html(scanned, folder)
    clean = report(status="clean", attacks=())
    assert "nothing was changed" in html(clean, folder)


def test_evil_names_do_nothing_in_the_page(folder: Path) -> None:
    page = Page(html(hostile(), folder))
    assert page.all("script") == []
    assert page.open == []
    assert "<script>alert(1)</script>" in page.text  # shown, as text
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)


def test_a_thousand_classes_and_five_thousand_filters_stay_a_page(folder: Path) -> None:
    run = report(classes=tuple(f"class {k}" for k in range(1000)))
    rates = (Rate(9, 10),) * 1000
    cut = run.pruned
    assert cut is not None
    assert run.export is not None
    filters = tuple(Filter(f"layer{i // 512}.conv", i % 512) for i in range(5000))
    run = replace(
        run,
        contract=replace(run.contract, num_classes=1000),
        before=replace(run.before, per_class=rates),
        export=replace(run.export, measured=replace(run.export.measured, per_class=rates)),
        pruned=replace(cut, removed=filters, refusals=tuple(Refusal(f, "coupled") for f in filters)),
        scan=replace(run.scan, evidence=tuple(ClassEvidence(k, 1.0, 2.0, "patch") for k in range(1000))),
    )
    text = html(run, folder)
    assert len(text) < 400_000
    assert text.count("<tr") < 1500
    results = sarif(run)["runs"][0]["results"]
    assert sum(r["ruleId"] == "filter/masked" for r in results) == MOST_FILTERS


def test_markdown_shows_what_fails_and_folds_the_rest() -> None:
    text = markdown(judged())
    visible = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    assert "FAIL: must not ship" in visible
    assert "too much" in visible
    assert "enough" not in visible
    assert text.count("<details>") == text.count("</details>") > 0


def test_every_kind_is_told_with_its_own_figures() -> None:
    text = markdown(with_budget(with_kinds(report(), asr=Rate(30, 300))))
    assert "Budget reached: 1.5 times." in text
    assert "| model.int8.onnx | 0.3 kB | 100.0 % (400 of 400) | 10.0 % (30 of 300) |" in text
    assert "fp16 was not written: not worth it here: it is no faster" in text
    assert "hardened int8, batch 1, 1 thread: 0.50 ms, 4.00 times as fast as the original (3.80 to 4.20)" in text


def test_a_search_for_no_single_class_has_a_name_in_every_form(folder: Path) -> None:
    run = replace(report(), scan=replace(report().scan, evidence=(ClassEvidence(-1, 9.8, 2.0, "patch"),)))
    assert "| each to another | 9.8 | 2 | patch |" in markdown(run)
    assert "each to another" in Page(html(run, folder)).text
    console = Console(file=io.StringIO(), width=140)
    show_report(run, console)
    assert re.search(r"each to another +9.8 +2 +patch", console.file.getvalue())  # type: ignore[attr-defined]


def test_evil_names_do_nothing_in_markdown() -> None:
    text = markdown(hostile())
    assert "<script>" not in text.replace("\\<script>", "")
    assert "](javascript" not in text.replace("\\](javascript", "")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) >= 3 for row in rows)
    assert "\x1b" not in text


def test_junit_has_a_case_for_each_check_and_passes_only_what_passed() -> None:
    suites = ElementTree.fromstring(junit(judged()))
    suite = suites[0]
    assert {k: suite.get(k) for k in ("tests", "failures", "skipped", "errors")} == {
        "tests": "4", "failures": "2", "skipped": "1", "errors": "0"
    }  # fmt: skip
    cases = {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")}
    assert cases == {"images": [], "accuracy-drop": ["failure"], "onnx-parity": ["failure"], "size": ["skipped"]}


def test_what_is_not_decided_is_skipped_in_junit_where_the_run_is_inconclusive() -> None:
    suite = ElementTree.fromstring(junit(report(verdict=Verdict("inconclusive", CHECKS[::2]))))[0]
    assert [[child.tag for child in case] for case in suite.iter("testcase")] == [[], ["skipped"]]


def test_evil_names_do_nothing_in_junit() -> None:
    assert ElementTree.fromstring(junit(hostile()))[0].get("failures") == "0"  # waived


def test_sarif_has_stable_rules_levels_and_fingerprints() -> None:
    run = sarif(judged())["runs"][0]
    ids = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert ids == sorted(set(ids))
    assert {"policy/accuracy-drop", "policy/onnx-parity", "filter/removed", "filter/masked"} <= set(ids)
    for result in run["results"]:
        assert ids[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] in ("none", "note", "warning", "error")
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "models/suspect.pt"
    levels = {r["ruleId"]: r["level"] for r in run["results"]}
    assert (levels["policy/accuracy-drop"], levels["policy/onnx-parity"]) == ("error", "warning")
    assert "policy/images" not in levels
    waived = next(r for r in run["results"] if r["ruleId"] == "policy/size")
    assert waived["suppressions"][0]["justification"] == "until 2027-01-01: known"
    prints = [r["partialFingerprints"]["harden/v1"] for r in run["results"]]
    assert len(set(prints)) == len(prints)
    assert prints == [r["partialFingerprints"]["harden/v1"] for r in sarif(judged())["runs"][0]["results"]]


SARIF = Path(__file__).parent / "schemas" / "sarif-2.1.0-rtm.5.json"


@pytest.mark.parametrize(
    "run",
    [
        judged(),
        hostile(),
        report(status="clean", attacks=()),
        replace(report(), command="scan", pruned=None, after=None, export=None),
        report(source="/a/folder with spaces/../ü?#%.pt"),
    ],
)
def test_sarif_is_what_the_standard_asks_for(run: Report) -> None:
    schema = json.loads(SARIF.read_text(encoding="utf-8"))
    validator = jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker())
    assert [error.message for error in validator.iter_errors(sarif(run))] == []


def test_sarif_with_a_level_of_its_own_would_be_refused() -> None:
    log = sarif(judged())
    log["runs"][0]["results"][0]["level"] = "high"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft4Validator(json.loads(SARIF.read_text(encoding="utf-8"))).validate(log)


def test_every_rule_says_what_it_is_and_what_helps() -> None:
    for rule in sarif(judged())["runs"][0]["tool"]["driver"]["rules"]:
        assert re.fullmatch(r"[A-Za-z0-9]+", rule["name"]), rule["name"]
        assert rule["shortDescription"]["text"]
        assert rule["help"]["text"]


def test_every_severity_has_a_level_that_sarif_knows() -> None:
    assert set(LEVELS.values()) <= {"none", "note", "warning", "error"}


def test_an_absolute_path_does_not_leave_the_machine() -> None:
    uri = json.dumps(sarif(report(source="/home/somebody/model.pt")))
    assert "somebody" not in uri


def test_every_check_of_the_judge_has_help_in_sarif() -> None:
    from harden.reports.sarif import RULES

    strict = Policy(0.0, 0.0, min_images=10**6, max_int8_drop=0.0, max_latency_ratio=0.1, max_bytes=1)
    strict = replace(strict, max_filters_removed=0.0)
    names = {check.name.split("/")[0] for check in judge(report(), strict).checks}
    assert len(names) == 11
    assert {f"policy/{name}" for name in names} <= set(RULES)
