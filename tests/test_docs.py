"""The documents: their commands have flags that exist, their links lead somewhere, their tables name every check."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from harden.bench.cell import apply
from harden.cli import app
from harden.methods import METHODS
from harden.network import predict
from harden.policy import CHECKS
from harden.registry import find
from harden.types import Run, Splits
from tests.planted import Planted

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> Iterator[str]:
    """The lines of a page that a reader would copy: indented, continued ones joined, without their comments."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"(?m)^ {4}(harden .*)$", text):
        command = re.sub(r"\s+#.*$", "", line)
        if "..." not in command and "[" not in command:
            yield command


COMMANDS = [(page.name, line) for page in PAGES for line in commands(page)]


def test_there_are_commands_to_try() -> None:
    assert {name for name, _ in COMMANDS} >= {"README.md", "tutorial.md"}
    assert len(COMMANDS) > 20


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_every_command_in_the_documents_can_be_read(page: str, line: str) -> None:
    words = shlex.split(line)[1:]
    found: Any = typer.main.get_command(app)
    while hasattr(found, "commands") and words and words[0] in found.commands:
        found, words = found.commands[words[0]], words[1:]
    assert found.make_context("harden", words), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_project_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_every_check_has_its_place_among_the_standards() -> None:
    text = (ROOT / "docs" / "standards.md").read_text(encoding="utf-8").partition("## By check")[2]
    for name in CHECKS:
        assert re.search(rf"`{name}(/…)?`", text), name


def test_the_method_of_the_page_works_as_it_stands(
    planted: Planted, planted_splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "adding-a-method.md").read_text(encoding="utf-8")
    file, imported, entry = re.findall(r"(?s)```python\n(.*?)```", page)
    (tmp_path / "head_only.py").write_text(file, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    names: dict[str, Any] = {}
    exec(imported.replace("harden.methods.", ""), names)  # the first of the two lines
    table = {**METHODS, **eval("{" + entry + "}", names)}  # and the second
    method = find("head-only", {"repair": {"schedule": {"epochs": 2, "rate": 0.1}}}, table)
    model, told = apply(method, planted.suspect, planted_splits, Run(), prune=True)
    assert told["notes"]["repair"]["epochs"] == 2
    assert told["filters_removed"] > 0
    assert bool((predict(model, planted_splits.verify).argmax(1) == planted_splits.verify.labels).all())
