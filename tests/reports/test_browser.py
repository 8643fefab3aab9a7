"""The page in a real browser: what a person sees on a desk, on a phone, in the dark, on paper, and through a reader."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from harden.outcome import Report
from harden.pictures import save
from harden.reports.html import html
from harden.types import ClassEvidence, Filter, LayerWidth, Rate, Refusal, Round
from tests.made import report, with_kinds
from tests.reports import chromium
from tests.reports.test_forms import hostile, judged

pytestmark = pytest.mark.skipif(chromium.find() is None, reason="Chromium is not installed")

WIDTHS = (1280, 390)


@pytest.fixture(scope="module")
def browser() -> Iterator[chromium.Browser]:
    with chromium.Browser() as found:
        yield found


def written(run: Report, folder: Path) -> Path:
    """The page of a run whose pictures are there."""
    for name in "abc":
        save(torch.rand(3, 8, 8), folder / "triggers" / f"{name}.png")
    path = folder / "report.html"
    path.write_text(html(run, folder), encoding="utf-8")
    return path


def large() -> Report:
    """A thousand classes, five thousand filters in forty layers."""
    run = report(classes=tuple(f"class number {k}" for k in range(1000)))
    rates = tuple(Rate(9 - k % 3, 10) for k in range(1000))
    filters = tuple(Filter(f"features.layer{i // 125}.conv", i % 125) for i in range(5000))
    assert run.pruned is not None
    assert run.export is not None
    return replace(
        run,
        before=replace(run.before, per_class=(Rate(9, 10),) * 1000),
        export=replace(run.export, measured=replace(run.export.measured, per_class=rates)),
        pruned=replace(
            run.pruned,
            filters_removed=2500,
            filters_total=5000,
            removed=filters[:2500],
            refusals=tuple(Refusal(f, "the channel takes part in a sum with 28 layers") for f in filters[2500:]),
            layers=tuple(LayerWidth(f"features.layer{i}.conv", 125, 62) for i in range(40)),
            rounds=tuple(
                Round(i, filters[25 * i : 25 * i + 25], 0.5, Rate(90, 100), i / 9, 0.1, Rate(0, 9)) for i in range(200)
            ),
        ),
        scan=replace(run.scan, evidence=tuple(ClassEvidence(k, k / 900, 2.0, "patch") for k in range(1000))),
    )


PAGES = {
    "passed": report,
    "many kinds": lambda: with_kinds(with_kinds(report(), kind="fp16")),
    "failed": judged,
    "hostile": hostile,
    "clean": lambda: report(status="clean", attacks=()),
    "scanned": lambda: replace(report(), command="scan", pruned=None, after=None, export=None),
    "large": large,
}

CUT_OFF = """[...document.querySelectorAll("main *")].filter(e => {
  if (e.closest(".scroll, pre, svg")) return false;
  const box = e.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map(e => e.outerHTML.slice(0, 120))"""
OUTSIDE = """[...document.querySelectorAll("svg text")].filter(e => {
  const [text, chart] = [e, e.ownerSVGElement].map(e => e.getBoundingClientRect());
  return text.left < chart.left - 1 || text.right > chart.right + 1 || text.bottom > chart.bottom + 1;
}).map(e => e.textContent)"""
UNSEEN = """[...document.querySelectorAll("img, svg")].filter(e => {
  const box = e.getBoundingClientRect();
  const empty = e.tagName === "IMG" && !(e.complete && e.naturalWidth);
  return !e.closest("details") && (empty || box.width < 20 || box.height < 5);
}).map(e => e.outerHTML.slice(0, 120))"""
CONTRAST = """(() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => (v / 255 <= 0.03928 ? v / 255 / 12.92
    : ((v / 255 + 0.055) / 1.055) ** 2.4)); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (c !== "rgba(0, 0, 0, 0)") return c; } return "rgb(255, 255, 255)"; };
  return [...document.querySelectorAll("h1, p, li, td, th, dt, dd, small, a, figcaption, summary, .mark")].map(e => {
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 100)]; }).filter(([ratio]) => ratio < 4.5);
})()"""


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_whole_and_quiet_at_every_width(name: str, browser: chromium.Browser, tmp_path: Path) -> None:
    page = browser.open(written(PAGES[name](), tmp_path))
    for width in WIDTHS:
        page.resize(width, 844)
        assert page.ask("document.documentElement.scrollWidth") <= width
        assert page.ask(CUT_OFF) == []
        assert page.ask(OUTSIDE) == []
        assert page.ask(UNSEEN) == []
    assert page.complaints() == []
    assert [url for url in page.requests() if not url.startswith(("data:", "file:"))] == []
    assert page.ask("document.scripts.length") == 0


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_by_day_and_by_night(dark: bool, browser: chromium.Browser, tmp_path: Path) -> None:
    page = browser.open(written(judged(), tmp_path), dark=dark)
    ground = page.ask("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
    assert page.ask(CONTRAST) == []  # 4.5 : 1 is what WCAG AA asks of small text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_first_screen_says_whether_it_may_ship_why_what_was_found_and_what_it_cost(
    width: int, browser: chromium.Browser, tmp_path: Path
) -> None:
    page = browser.open(written(report(), tmp_path), width, 844)
    seen = page.ask("""[...document.querySelectorAll("h1, p, dt, dd")]
        .filter(e => e.getBoundingClientRect().bottom <= innerHeight).map(e => e.textContent).join("\\n")""")
    for said in ("PASS: may ship", "All 1 checks", "leads to class 0", "4 of 16 filters were removed", "model.onnx"):
        assert said in seen
    for tile in ("Backdoor", "Attack success", "Accuracy", "Filters removed", "Parameters", "Speed", "This run took"):
        assert tile in seen


def test_a_reader_hears_headings_in_order_and_pictures_by_name(browser: chromium.Browser, tmp_path: Path) -> None:
    page = browser.open(written(judged(), tmp_path))
    levels = page.ask('[...document.querySelectorAll("h1,h2,h3,h4")].map(e => Number(e.tagName[1]))')
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    outline = page.outline()
    headings = [name for role, name in outline if role == "heading"]
    assert headings[0] == "FAIL: must not ship"
    assert headings.index("Before and after") < headings.index("Triggers") < headings.index("All checks")
    pictures = [name for role, name in outline if role in ("image", "img")]
    assert len(pictures) == 5  # three of the trigger, two charts
    assert all(pictures)
    assert next(name for role, name in outline if role == "region") == "FAIL: must not ship"


def test_the_keyboard_reaches_everything_that_opens_or_scrolls(browser: chromium.Browser, tmp_path: Path) -> None:
    page = browser.open(written(report(), tmp_path))
    count = page.ask(
        """[...document.querySelectorAll("a, summary, [tabindex]")].filter(e => e.checkVisibility()).length"""
    )
    reached = []
    for _ in range(count):
        for kind in ("keyDown", "keyUp"):
            page.send("Input.dispatchKeyEvent", {"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9})
        reached.append(page.ask("document.activeElement.getBoundingClientRect().top + scrollY"))
    assert len(reached) >= 10
    assert reached == sorted(reached)


def test_paper_shows_what_is_folded_away_on_a_screen(browser: chromium.Browser, tmp_path: Path) -> None:
    page = browser.open(written(report(), tmp_path), dark=True)
    folded = '[...document.querySelectorAll("details pre, details table")].map(e => e.checkVisibility())'
    assert set(page.ask(folded)) == {False}
    page.send("Emulation.setEmulatedMedia", {"media": "print"})
    assert set(page.ask(folded)) == {True}
    assert page.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.print(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_a_thousand_classes_and_five_thousand_filters_open_at_once(browser: chromium.Browser, tmp_path: Path) -> None:
    path = written(large(), tmp_path)
    assert path.stat().st_size < 3_000_000
    page = browser.open(path)
    busy = {m["name"]: m["value"] for m in page.send("Performance.getMetrics")["metrics"]}
    assert 0 < busy["ThreadTime"] < 2  # seconds of a core until it is drawn; 0.06 is usual
    assert page.ask("document.documentElement.scrollHeight") < 20_000  # a page to read, not a list of everything


def test_evil_names_do_nothing_in_a_browser(browser: chromium.Browser, tmp_path: Path) -> None:
    page = browser.open(written(hostile(), tmp_path))
    assert page.complaints() == []
    assert "<script>alert(1)</script>" in page.ask("document.body.textContent")
    assert page.ask('document.querySelectorAll("[onload], [onerror], [onclick], script, iframe").length') == 0
    assert not re.search(r"alert", page.ask("document.title").replace("alert(1)", ""))
