"""What the machine may do to a run: a full disk, no home, a bare locale, names in no encoding, two runs at once."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import planted as hand_made

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "120"}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hand_made.as_received(tmp_path_factory.mktemp("sample"))


def clean(
    sample: Path, out: Path, *more: str, env: dict[str, str] = ENVIRONMENT, before: Callable[[], object] | None = None
) -> subprocess.Popen[str]:
    command = [
        sys.executable, "-m", "harden", "clean", sample / "model.pt", "--arch", f"{sample / 'net.py'}:net",
        "--clean-dir", sample / "data", "--trigger", f"{sample / 'trigger.py'}:stamp", "--target", "0",
        "--method", "grad-prune", "--no-latency", "--out", out, *more,
    ]  # fmt: skip
    return subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=env,
        preexec_fn=before,
    )


@pytest.mark.parametrize("room", [100, 5_000, 15_000])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(sample: Path, tmp_path: Path, room: int) -> None:
    """No file may become larger than so many bytes: the pictures are hit, then the model, then the report."""
    process = clean(sample, tmp_path / "run", before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)))
    _, said = process.communicate()
    assert process.returncode == 3, said
    assert "Error: " in said
    assert "File too large" in said
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_result_that_cannot_be_printed_is_no_success(unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "harden", "plan", "show"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
            env={**ENVIRONMENT, "PYTHONUNBUFFERED": unbuffered},
        )  # fmt: skip
    assert done.returncode == 3
    assert done.stderr.startswith("Error: ")
    assert "No space left on device." in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("printing", ["", "ascii"])
def test_no_home_a_bare_locale_and_names_in_no_encoding(sample: Path, tmp_path: Path, printing: str) -> None:
    folder = tmp_path / "ein Ordner é 模型"
    shutil.copytree(sample, folder)
    (folder / "data" / "green").rename(folder / "data" / "grün")
    (folder / "model.toml").write_text(
        (folder / "model.toml").read_text(encoding="utf-8").replace('"green"', '"grün"'), encoding="utf-8"
    )
    for number, picture in enumerate((folder / "data" / "grün").iterdir()):
        os.rename(os.fsencode(picture), os.fsencode(picture.parent) + b"/caf\xe9 %d.png" % number)  # noqa: PTH104
    wanted = {name: value for name, value in ENVIRONMENT.items() if name not in ("HOME", "LANG", "PYTHONIOENCODING")}
    wanted |= {"LC_ALL": "C", **({"PYTHONIOENCODING": printing} if printing else {})}
    process = clean(folder, tmp_path / "ein Lauf é", env=wanted)
    printed, said = process.communicate()
    assert process.returncode == 0, said
    assert "8 of 24 filters were removed" in printed
    report = json.loads((tmp_path / "ein Lauf é" / "report.json").read_text(encoding="utf-8"))
    assert report["contract"]["classes"] == ["red", "grün", "blue"]


def test_of_two_runs_into_one_folder_one_is_refused(sample: Path, tmp_path: Path) -> None:
    runs = [clean(sample, tmp_path / "run", "--resume") for _ in range(2)]
    said = [process.communicate()[1] for process in runs]
    assert sorted(process.returncode for process in runs) == [0, 3], said
    (refused,) = [text for process, text in zip(runs, said, strict=True) if process.returncode == 3]
    assert "another run is writing" in refused or "exists already, and a run never overwrites another" in refused
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".harden-resume-")] == ["run"]
    assert json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))["verdict"]["status"] == "pass"
