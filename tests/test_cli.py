"""What a person and a script meet: help that comes at once, JSON alone on stdout, sentences, exit codes, no debris."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harden import boundary
from harden.errors import BadData, HardenError, Inconclusive, UnsafeFile, UsageError
from harden.reports import records
from harden.types import Finding, Rate, Verdict
from harden_export.files import ExportError
from tests import planted as hand_made
from tests.made import report

ROOT = Path(__file__).parent.parent
PATHS = os.pathsep.join([str(ROOT), str(ROOT / ".mypy")])  # the second for harden_export, were another tree installed
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "120"}


def harden(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harden", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted network as somebody would get it: weights, contract, architecture, trigger and images."""
    return hand_made.as_received(tmp_path_factory.mktemp("sample"))


def known_trigger(folder: Path) -> list[object]:
    return ["--trigger", f"{folder / 'trigger.py'}:stamp", "--target", "red"]


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "numpy", "PIL", "jinja2", "harden.network")
    code = (
        "import sys\nfrom harden.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stderr.strip() == "[]"
    assert "clean" in done.stdout


def test_help_comes_within_half_a_second() -> None:
    def took() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "harden", "--help"], capture_output=True, env=ENVIRONMENT, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(took() for _ in range(3)) < 0.5  # processor time: what else runs here is not its fault


def test_importing_harden_imports_nothing_heavy() -> None:
    code = (
        "import sys, harden\nprint('torch' in sys.modules, harden.__version__, harden.Rate and 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.split() == ["False", "0.1.0", "False"]


def test_everything_that_harden_offers_is_there() -> None:
    import harden as library

    for name in library.__all__:
        assert getattr(library, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'cleen'"):
        library.cleen  # noqa: B018


def test_the_whole_job_with_a_known_trigger(sample: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = harden(
        "clean", sample / "model.pt", "--arch", f"{sample / 'net.py'}:net", "--clean-dir", sample / "data",
        *known_trigger(sample), "--method", "grad-prune", "--no-latency", "--out", run, "--format", "json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)  # nothing but JSON
    assert printed["verdict"]["status"] == "pass"
    assert "prune" in done.stderr
    before, after = printed["before"], printed["after"]
    assert before["attack_success"][0]["asr"] == {"hits": 36, "total": 36}
    assert after["attack_success"][0]["asr"] == {"hits": 0, "total": 36}
    assert after["accuracy"] == before["accuracy"] == {"hits": 54, "total": 54}
    assert printed["pruned"]["filters_removed"] >= 1
    assert after["parameters"] < before["parameters"]
    found = {path.name for path in run.iterdir()}
    assert found == {
        "report.json", "report.html", "report.md", "results.sarif", "junit.xml", "model.onnx", "model.safetensors",
        "pruning.json", "plan.toml", "triggers", "infer.py", "sbom.cdx.json", "test-result.intoto.json",
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["run"]

    gate = harden("gate", run, "--policy", "strict")
    assert gate.returncode == 1  # 54 images are too few for it, and it fails what is not decided
    assert "images" in gate.stdout
    assert harden("gate", run).returncode == 0

    again = harden(
        "verify", run, "--arch", f"{sample / 'net.py'}:net", "--data-dir", sample / "data", *known_trigger(sample)
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("0.0 % (0 of 120)") == 2  # the file in ONNX Runtime, and the rebuilt network

    taken = harden(
        "clean", sample / "model.pt", "--arch", f"{sample / 'net.py'}:net", "--clean-dir", sample / "data", "--out", run
    )
    assert taken.returncode == 3
    assert "exists already" in taken.stderr

    onnx = run / "model.onnx"
    onnx.write_bytes(onnx.read_bytes() + b"\x32\x01x")  # a doc_string: it still runs, and answers the same
    changed = harden(
        "verify", run, "--arch", f"{sample / 'net.py'}:net", "--data-dir", sample / "data", *known_trigger(sample)
    )
    assert changed.returncode == 1
    assert "was changed after it was judged" in changed.stdout


def test_verify_says_no_where_the_trigger_works(sample: Path) -> None:
    done = harden(
        "verify", sample / "model.pt", "--arch", f"{sample / 'net.py'}:net", "--data-dir", sample / "data",
        *known_trigger(sample), "-q",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "120 of 120" in done.stdout
    assert done.stderr == ""


def test_verify_takes_a_trigger_that_makes_another_class_of_each(sample: Path) -> None:
    done = harden(
        "verify", sample / "model.pt", "--arch", f"{sample / 'net.py'}:net", "--data-dir", sample / "data",
        "--trigger", f"{sample / 'trigger.py'}:stamp", "--target", "any", "-q",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "120 of 180" in done.stdout, "of all classes; images of the one that it leads to stay what they were"


def test_verify_without_a_trigger_decides_nothing(sample: Path) -> None:
    arguments = ["verify", "model.pt", "--arch", "net.py:net", "--data-dir", "data"]
    done = harden(*arguments, cwd=sample)
    assert done.returncode == 5, done.stdout + done.stderr
    assert "attack-success (model.pt): Not measured" in done.stdout
    assert "may ship" not in done.stdout
    as_json = harden(*arguments, "--format", "json", cwd=sample)
    assert as_json.returncode == 5
    checks = {check["name"]: check["passed"] for check in json.loads(as_json.stdout)["verdict"]["checks"]}
    assert checks == {"images (model.pt)": True, "attack-success (model.pt)": None}


def test_verify_of_the_accuracy_alone_never_says_may_ship(sample: Path) -> None:
    arguments = ["verify", "model.pt", "--arch", "net.py:net", "--data-dir", "data", "--accuracy-only"]
    done = harden(*arguments, cwd=sample)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was said about backdoors" in done.stdout
    assert "may ship" not in done.stdout
    both = harden(*arguments, *known_trigger(sample), cwd=sample)
    assert both.returncode == 2
    assert "--accuracy-only" in both.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["clean"], 2, "harden clean MODEL --clean-dir DIR"),
        (["clean", "model.pt"], 2, "harden clean model.pt --clean-dir DIR --arch FILE.py:FUNCTION"),
        (["clean", "model.pt", "--clean-dri", "x"], 2, "--clean-dir"),
        (["cleen"], 2, "clean"),
        (["clean", "nowhere.pt", "--clean-dir", "data"], 3, "nowhere.pt"),
        (["clean", "model.pt", "--clean-dir", "data", "--method", "auot"], 2, "Did you mean 'auto'?"),
        (["clean", "model.pt", "--clean-dir", "data", "--policy", "stric"], 2, "strict"),
        (["scan", "model.pt", "--clean-dir", "data", "--trigger", "t.png", "--arch", "net.py:net"], 2, "--target"),
        (["inspect", "evil.pt"], 4, "names 'os.system'"),
        (["verify", "evil.pt", "--data-dir", "data"], 4, "evil.pt"),
        (["gate", "data"], 3, "report.json"),
        (["methods", "--format", "sarif"], 2, "json"),
        (["policy", "check", "strict"], 0, "min_images = 200"),
        (["policy", "init", "strict", "--out", "net.py"], 3, "exists already"),
        (["plan", "show"], 0, "[policy]"),
        (["--version"], 0, "harden 0.1.0"),
    ],
)  # fmt: skip
def test_exit_codes_and_sentences(sample: Path, arguments: list[str], code: int, said: str) -> None:
    evil = sample / "evil.pt"
    if not evil.exists():
        evil.write_bytes(b"cos\nsystem\n(S'echo harm'\ntR.")
    done = harden(*arguments, cwd=sample)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_dry_run_says_what_it_would_do_and_does_nothing(sample: Path) -> None:
    before = sorted(sample.iterdir())
    done = harden(
        "clean", "model.pt", "--arch", "net.py:net", "--clean-dir", "data", "--method", "ft", "--dry-run", cwd=sample
    )
    assert done.returncode == 0, done.stderr
    assert 'clean_dir = "data"  # flag' in done.stdout
    assert "180 files" in done.stdout
    assert re.search(r"# time: about \d+ (s|min) here", done.stdout)
    assert sorted(path for path in sample.iterdir() if path.name != "__pycache__") == [
        p for p in before if p.name != "__pycache__"
    ]


def test_a_whole_run_is_said_to_take_more_memory_than_a_scan() -> None:
    samples = Path(__file__).parent.parent / "samples"
    model = [samples / "models" / "clean.pt", "--arch", f"{samples / 'network.py'}:sign_net"]

    def memory(verb: str) -> int:
        done = harden(verb, *model, "--clean-dir", samples / "clean", "--dry-run")
        (megabytes,) = re.findall(r"# memory: roughly (\d+) MB", done.stdout)
        return int(megabytes)

    assert memory("clean") > 3 * memory("scan"), "relearning sends back four times as many images as a search"


def test_the_limit_for_files_can_be_moved(sample: Path) -> None:
    done = harden("inspect", sample / "model.pt", "--max-input", "1kB")
    assert done.returncode == 4
    assert "at most 1000 are read" in done.stderr
    assert "raise --max-input" in done.stderr
    assert harden("inspect", sample / "model.pt", "--max-input", "1MB").returncode == 0


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_nothing(sample: Path, tmp_path: Path, sent: signal.Signals, code: int) -> None:
    # However slow the machine is, this run is never so long that its finished stages would be kept for --resume.
    code_of_it = "import math; from harden import cli, resume; resume.WORTH = math.inf; cli.main()"
    command = [
        sys.executable, "-c", code_of_it, "clean", sample / "model.pt", "--arch", f"{sample / 'net.py'}:net",
        "--clean-dir", sample / "data", "--method", "ft", "--out", tmp_path / "run",
    ]  # fmt: skip
    process = subprocess.Popen(
        [*map(str, command)],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # A shell's background job is started deaf to Ctrl-C, and would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "measure before" in line:  # it is at the long part of its work now
            break
    process.send_signal(sent)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == code, rest
    assert "Traceback" not in rest
    assert ("Interrupted. Nothing was left behind." in rest) == (sent == signal.SIGINT)
    assert list(tmp_path.iterdir()) == []


def in_python(command: str, folder: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, env=ENVIRONMENT, cwd=folder, timeout=timeout
    )


@pytest.mark.parametrize(("sent", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interrupt_waits_for_an_import_that_would_swallow_it(tmp_path: Path, sent: str, code: int) -> None:
    (tmp_path / "slow.py").write_text(
        f"import signal, time\nsignal.raise_signal(signal.{sent})\nsignal.raise_signal(signal.{sent})\n"
        "time.sleep(0.2)\nwhole = True\n",
        encoding="utf-8",
    )
    command = (
        "import signal, sys, time\n"
        "from harden import boundary\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def main():\n"
        "    try:\n"
        "        import slow\n"
        "    except BaseException:\n"
        "        print('swallowed')\n"
        "    else:\n"
        "        print('whole', slow.whole)\n"
        "    try:\n"
        "        time.sleep(30)\n"
        "    finally:\n"
        "        time.sleep(0.3)\n"
        "        print('tidied up')\n"
        "sys.exit(boundary.run(main))\n"
    )
    done = in_python(command, tmp_path, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stdout == "whole True\ntidied up\n", "sent twice, and heard once"


def test_an_interrupt_waits_no_longer_than_an_import_may_take(tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGINT)\nfor _ in range(300):\n    time.sleep(0.1)\n",
        encoding="utf-8",
    )
    command = (
        "import signal, sys\n"
        "from harden import boundary\n"
        "boundary.PATIENCE = 0.3\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def main():\n"
        "    import stuck\n"
        "sys.exit(boundary.run(main))\n"
    )
    done = in_python(command, tmp_path, timeout=25)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr


def test_a_closed_pipe_is_no_error(sample: Path) -> None:
    command = f"{sys.executable} -m harden plan show | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=ENVIRONMENT, check=True, cwd=sample
    )
    assert done.stdout.split()[-1] in ("0", "141")
    assert done.stderr == ""


@pytest.mark.parametrize("form", ["json", "markdown", "sarif", "junit", "text"])
def test_gate_prints_a_run_in_every_form(tmp_path: Path, form: str) -> None:
    (tmp_path / "report.json").write_text(records.dumps(report()), encoding="utf-8")
    done = harden("gate", tmp_path, "--policy", "default", "--format", form)
    assert done.returncode == 0, done.stdout + done.stderr
    starts = {"json": "{", "markdown": "## ", "sarif": "{", "junit": "<?xml", "text": ""}
    assert done.stdout.strip().startswith(starts[form])
    assert len(done.stdout) > 300


@pytest.mark.parametrize(
    ("was", "policy", "code", "said"),
    [
        ("fail", "default", 0, "they stay in RUN/quarantine"),
        ("pass", "strict", 1, "ship none of the files that lie in RUN."),
        ("pass", "default", 0, ""),
        ("inconclusive", "strict", 1, ""),
    ],
)
def test_gate_moves_nothing_and_says_so(tmp_path: Path, was: Any, policy: str, code: int, said: str) -> None:
    run = report(accuracy_after=Rate(394, 400), verdict=Verdict(was, ()))  # strict allows one point
    path = tmp_path / "report.json"
    path.write_text(text := records.dumps(run), encoding="utf-8")
    done = harden("gate", tmp_path, "--policy", policy)
    assert done.returncode == code, done.stdout + done.stderr
    assert said.replace("RUN", str(tmp_path)) in done.stdout
    assert ("gate moves nothing" in done.stdout) is bool(said)
    assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]
    printed = harden("gate", tmp_path, "--policy", policy, "--format", "json")
    assert json.loads(printed.stdout)
    assert ("gate moves nothing" in printed.stderr) is bool(said)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("a", hint="do b"), 2, "Error: a\n  -> do b"),
        (BadData("a"), 3, "Error: a"),
        (HardenError("bad \x1b[31m name"), 3, "bad �[31m name"),
        (Inconclusive("a"), 5, "a"),
        (UnsafeFile("a", findings=[Finding("r", "high", "m", "l")]), 4, "high: r: m (l)"),
        (ExportError("a", hint="b"), 3, "Error: a\n  -> b"),
        (torch.OutOfMemoryError("CUDA out of memory"), 3, "not enough memory"),
        (MemoryError(), 3, "not enough memory"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.png"),
            3,
            "Error: a.png: No space left on device.\n  -> Mak",
        ),
        (OSError(errno.EROFS, "Read-only file system"), 3, "Read-only file system."),
        (OSError(errno.EBADF, "Bad file descriptor"), 70, "This is a bug"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (SystemExit("words"), 3, ""),
        (SystemExit(1), 1, ""),
        (ZeroDivisionError("oops"), 70, "This is a bug"),
    ],
)
def test_the_boundary(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def fails() -> None:
        raise error

    assert boundary.run(fails) == code
    assert said in capsys.readouterr().err


def test_every_flag_of_the_readme_exists() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    helps = "".join(harden(verb, "--help").stdout for verb in ("clean", "verify", "export", "bench"))
    known = set(re.findall(r"--[a-z][a-z-]+", helps))
    commands = [line for line in text.splitlines() if re.match(r"\s*(\$ )?harden [a-z]", line)]
    used = {flag for line in commands for flag in re.findall(r"--[a-z][a-z-]+", line)}
    assert used <= known
