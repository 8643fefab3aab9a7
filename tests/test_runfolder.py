"""A run folder is whole, or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from harden import runfolder
from harden.errors import BadOutput
from harden.runfolder import RunFolder, default_folder


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_at_once_and_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    with RunFolder(out) as folder:
        (folder.path / "sub").mkdir()
        (folder.path / "sub" / "a.txt").write_text("a", encoding="utf-8")
        assert not out.exists()
        folder.publish()
    assert [p.name for p in sorted(out.rglob("*"))] == ["sub", "a.txt"]
    assert listed(out.parent) == ["run"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_nothing_is_left(tmp_path: Path, error: type[BaseException]) -> None:
    out = tmp_path / "runs" / "deep" / "run"  # the folders above it are not there before either
    with pytest.raises(error), RunFolder(out) as folder:  # noqa: PT012 - the block is what is tested
        (folder.path / "a.txt").write_text("a", encoding="utf-8")
        raise error
    assert listed(tmp_path) == []


def test_a_finished_run_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BadOutput, match="exists already"), RunFolder(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / "report.json").read_text(encoding="utf-8") == "{}"


def test_not_even_one_that_appeared_in_the_meantime(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(BadOutput), RunFolder(out) as folder:  # noqa: PT012 - the block is what is tested
        out.mkdir()
        (out / "theirs").write_text("x", encoding="utf-8")
        folder.publish()
    assert listed(out) == ["theirs"]
    assert listed(tmp_path) == ["run"]


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        folder.target.mkdir()
        folder.publish()
    assert (tmp_path / "run").is_dir()


KILLED = """
import os, signal, sys
from pathlib import Path
from harden.runfolder import RunFolder
with RunFolder(Path(sys.argv[1])) as folder:
    (folder.path / "half").write_text("half", encoding="utf-8")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    died = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "run")], check=False)
    assert died.returncode == -signal.SIGKILL
    assert not (tmp_path / "run").exists()
    assert len(listed(tmp_path)) == 1  # under its hidden name
    with RunFolder(tmp_path / "run") as folder:
        folder.publish()
    assert listed(tmp_path) == ["run"]


def test_but_not_what_a_living_run_is_at(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "one") as one:
        with RunFolder(tmp_path / "two") as two:
            two.publish()
        assert one.path.is_dir()
        one.publish()
    assert listed(tmp_path) == ["one", "two"]


def test_a_place_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(BadOutput, match="cannot be written"), RunFolder(tmp_path / "file" / "run"):
        pass


def test_the_default_name_is_never_one_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    now = datetime(2026, 1, 2, 3, 4, 5)
    first = default_folder(Path("a/model.pt"), now)
    assert first == Path("harden-runs/model-20260102-030405")
    first.mkdir(parents=True)
    assert default_folder(Path("a/model.pt"), now) == Path("harden-runs/model-20260102-030405-2")


def test_the_second_of_two_runs_into_one_folder_is_refused_before_it_works(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as first:
        with (
            pytest.raises(BadOutput, match=f"another run is writing .*process {os.getpid()} "),
            RunFolder(first.target),
        ):
            pass
        assert listed(tmp_path) == [first.path.name]
        with RunFolder(tmp_path / "other") as other:  # beside it there is room
            assert other.path.exists()


def test_one_that_was_quicker_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both looked at the same moment: only the renaming can tell."""
    with RunFolder(tmp_path / "run") as folder:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "report.json").touch()
        refuse = runfolder.refuse_taken
        answers = iter([lambda _: None, refuse])
        monkeypatch.setattr(runfolder, "refuse_taken", lambda target: next(answers)(target))
        with pytest.raises(BadOutput, match="exists already"):
            folder.publish()


def test_a_foreign_folder_of_such_a_name_is_not_touched(tmp_path: Path) -> None:
    foreign = [".run.partial-x", ".run.partial-00000000-1-abc", "run.partial-5"]
    for name in foreign:
        (tmp_path / name).mkdir()
    runfolder.sweep(tmp_path)
    assert listed(tmp_path) == sorted(foreign)
    with pytest.raises(BadOutput, match="process 1 on another machine"), RunFolder(tmp_path / "run"):
        pass


def test_one_of_this_number_in_an_earlier_life_is_removed(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run") as folder:
        name = folder.path.name
    (tmp_path / name).mkdir()  # as a container leaves it that is killed and started again
    with RunFolder(tmp_path / "run") as folder:
        assert listed(tmp_path) == [folder.path.name]
