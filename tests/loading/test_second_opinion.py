"""picklescan is heard and never obeyed: neither its silence nor its alarm nor its failure changes what is opened."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from harden.errors import UnsafeFile
from harden.loading import inspect, load, second_opinion
from tests.loading import payloads


@pytest.fixture
def harmless(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(payloads.HARMLESS)
    return path


def opinions(path: Path) -> dict[str, str]:
    try:
        found = inspect(path).findings
    except UnsafeFile as error:
        found = error.findings
    return {f.rule: f.message for f in found if f.rule.startswith("second-opinion")}


def test_a_harmless_file_is_called_harmless(harmless: Path) -> None:
    pytest.importorskip("picklescan")
    assert opinions(harmless)["second-opinion"].endswith("knows nothing bad of what it names")


@pytest.mark.parametrize("form", ["zip", "bare", "legacy"])
def test_an_evil_file_is_named_by_both(form: str, tmp_path: Path) -> None:
    pytest.importorskip("picklescan")
    evil = payloads.callables("CANARY")["posix.system"]
    forms = {
        "zip": payloads.archive(evil),
        "bare": evil,
        "legacy": payloads.MAGIC + payloads.PROTOCOL + payloads.SYSTEM + evil,
    }
    path = tmp_path / "evil.pt"
    path.write_bytes(forms[form])
    assert "posix.system" in opinions(path)["second-opinion-bad"]


def test_what_it_does_not_know_is_refused_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("picklescan")
    path = tmp_path / "evil.pt"
    path.write_bytes(payloads.archive(payloads.callables("CANARY")["torch.hub.load"]))
    assert "second-opinion" in opinions(path)
    with pytest.raises(UnsafeFile):
        inspect(path)


def test_only_inspect_asks(harmless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        pytest.fail("asked")

    monkeypatch.setattr("harden.loading.scan.second_opinion", never)
    with pytest.raises(Exception, match="--arch"):
        load(harmless)


def test_its_absence_and_its_failure_are_no_matter(harmless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*_: Any, **__: Any) -> Any:
        raise subprocess.TimeoutExpired("picklescan", second_opinion.SECONDS)

    def absent(_: str) -> str:
        raise PackageNotFoundError

    monkeypatch.setattr(second_opinion, "version", lambda _: "9")
    monkeypatch.setattr(subprocess, "run", slow)
    assert opinions(harmless) == {"second-opinion": "picklescan 9 came to no result (TimeoutExpired)"}
    monkeypatch.setattr(second_opinion, "version", absent)
    assert opinions(harmless) == {}
