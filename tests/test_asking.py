"""Somebody comes with a bare file: one message says all that is missing, with the flags to add."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harden.asking import ask
from harden.errors import BadData, BadModel, UsageError
from harden.plan import Plan


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with weights that fit no architecture that is known by name, and with a folder of images."""
    monkeypatch.chdir(tmp_path)
    torch.save({"front.weight": torch.zeros(4, 3, 3, 3), "head.weight": torch.zeros(2, 4)}, tmp_path / "my model.pt")
    (tmp_path / "data" / "cat").mkdir(parents=True)
    return tmp_path


def asked(plan: Plan) -> UsageError:
    with pytest.raises(UsageError) as error:
        ask(plan, "clean")
    return error.value


def test_with_nothing_at_all_it_names_the_files_that_are_here(here: Path) -> None:
    error = asked(Plan())
    assert f"(here: {(here / 'my model.pt').name})" in error.message
    assert error.hint.endswith("harden clean MODEL --clean-dir DIR")


def test_a_bare_model_gets_every_flag_in_one_message(here: Path) -> None:
    error = asked(Plan(model=Path("my model.pt")))
    for flag in ("--clean-dir", "--arch", "--input-size", "--mean", "--std"):
        assert flag in error.message
        assert flag in error.hint
    assert "harden clean 'my model.pt' --clean-dir DIR" in error.hint
    assert here.is_dir()


def test_what_was_given_is_kept_in_the_line_to_complete(here: Path) -> None:
    error = asked(Plan(model=here / "my model.pt", clean_dir=here / "data", mean=(0.5,), input_size=(3, 8, 8)))
    assert "--mean 0.5" in error.hint
    assert "--input-size 3,8,8" in error.hint
    assert "--mean" not in error.message
    assert "--std" in error.message


@pytest.mark.usefixtures("here")
def test_a_contract_beside_the_model_answers(here: Path) -> None:
    (here / "model.toml").write_text("[model]\ninput_size = [3, 8, 8]\nmean = [0.5]\nstd = [0.5]\n", encoding="utf-8")
    error = asked(Plan(model=Path("my model.pt")))
    assert "--mean" not in error.message
    assert "--arch" in error.message


@pytest.mark.usefixtures("here")
def test_where_nothing_is_missing_nothing_is_said() -> None:
    ask(Plan(model=Path("my model.pt"), clean_dir=Path("data"), arch="net.py:net"), "clean")


@pytest.mark.usefixtures("here")
def test_a_path_that_is_not_there_gets_the_nearest_one() -> None:
    with pytest.raises(BadModel, match=r"Did you mean 'my model\.pt'"):
        ask(Plan(model=Path("mymodel.pt")), "clean")
    with pytest.raises(BadData, match="Did you mean 'data'"):
        ask(Plan(model=Path("my model.pt"), clean_dir=Path("dta")), "scan")
