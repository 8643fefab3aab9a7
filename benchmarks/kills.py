"""Kills runs at random moments, and looks at what is left and at what the same command then does.

    python -m benchmarks.kills [KILLS] [SEED]

Every run is `harden clean` on a small planted network, always into the same folder, and gets SIGKILL after a random
share of the time that a whole run takes. After each kill the folder either is not there or is whole, and the same
command is given again; every fifth is left alone, and has to end as a run that nobody touched, with nothing left
beside it. Half of the rounds are with --resume. A run is a process forked from this one, with torch and its exporter
imported already, and relearns for three epochs, so that the kills meet the work of every stage and not the imports.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from harden import api, boundary, cli  # noqa: F401 (api: imported before the forks)
from harden.errors import BUG, MAY_SHIP
from harden.resume import PREFIX
from tests import planted

WHOLE = (
    "report.json", "report.html", "report.md", "results.sarif", "junit.xml", "model.onnx", "model.safetensors",
    "pruning.json", "plan.toml",
)  # fmt: skip
SAME = ("pruning.json", "model.safetensors")
"""What two runs of one seed have in common byte by byte."""
PATIENCE = 7200.0
"""Seconds that a run may take that is not killed: the machine may have other things to do."""
ROUND = 5
"""Runs in a round: the last one is not killed."""
PLAN = """
[method.repair.schedule]
epochs = 3
"""


def start(sample: Path, out: Path, log: Path, *, resume: bool) -> int:
    """The command line in a process of its own; gives back its number."""
    arguments = [
        "clean", sample / "model.pt", "--arch", f"{sample / 'net.py'}:net", "--clean-dir", sample / "data",
        "--trigger", f"{sample / 'trigger.py'}:stamp", "--target", "red", "--method", "grad-prune", "--no-latency",
        "--plan", sample / "plan.toml", "--quiet", "--out", out, *(["--resume"] if resume else []),
    ]  # fmt: skip
    child = os.fork()
    if child:
        return child
    code = BUG
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["harden", *map(str, arguments)]
        code = boundary.run(cli.app)
    finally:
        os._exit(code)


def import_exporter() -> None:
    """Whatever torch imports when it exports for the first time: a second or two of each run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(torch.nn.Linear(1, 1), (torch.zeros(1, 1),), dynamo=True, verbose=False)


def wait(child: int, seconds: float) -> int:
    """How it ended: its exit code, or -9 if it had to be killed by then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def wrong_with(out: Path, untouched: Path) -> str:
    """What is wrong with a folder that is there under its name; empty if it is whole and as it should be."""
    missing = [name for name in WHOLE if not (out / name).is_file() or not (out / name).stat().st_size]
    if missing:
        return f"the folder is there without {', '.join(missing)}"
    different = [name for name in SAME if (out / name).read_bytes() != (untouched / name).read_bytes()]
    return f"{', '.join(different)} differ from those of a run that nobody touched" if different else ""


def shares(rng: random.Random) -> Iterator[float]:
    """Of a whole run's time: anywhere, and every third in its last part, where the files are written."""
    while True:
        yield rng.uniform(0, 1)
        yield rng.uniform(0, 1)
        yield rng.uniform(0.7, 1.05)


def run(kills: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Outcomes by name, and what must not happen."""
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    moments = shares(random.Random(seed))
    with tempfile.TemporaryDirectory() as folder:
        sample, untouched, place, log = (Path(folder) / name for name in ("sample", "untouched", "runs", "log"))
        sample.mkdir()
        place.mkdir()
        planted.as_received(sample)
        (sample / "plan.toml").write_text(PLAN, encoding="utf-8")
        import_exporter()
        times = []
        for _ in range(2):  # the first one is slower than the others
            shutil.rmtree(untouched, ignore_errors=True)
            began = time.monotonic()
            code = wait(start(sample, untouched, log, resume=False), PATIENCE)
            times.append(time.monotonic() - began)
            if code != MAY_SHIP:
                return outcomes, [f"the run that nobody touched ended with {code}: {log.read_text()}"]
        number = 0
        while outcomes["killed"] < kills or number % ROUND:
            number += 1
            resume, last = number // ROUND % 2 == 1, number % ROUND == 0
            out = place / "run"
            code = wait(start(sample, out, log, resume=resume), PATIENCE if last else next(moments) * times[-1])
            if code == -signal.SIGKILL:
                outcomes["killed"] += 1
                stages = len(list(place.glob(f"{PREFIX}*/*.safetensors")))
                outcomes[f"of these with {stages} finished stages kept"] += bool(stages)
            elif code == MAY_SHIP:
                outcomes["came through after kills" if last else "came through before the kill"] += 1
            else:
                failures.append(f"run {number} ended by itself with {code}: {log.read_text()[-500:]}")
            if out.exists():
                problem = wrong_with(out, untouched)
                outcomes["killed when all was done"] += code == -signal.SIGKILL
                if problem:
                    failures.append(f"run {number}, {'killed' if code < 0 else 'ended'}: {problem}")
                shutil.rmtree(out)
            elif code == MAY_SHIP:
                failures.append(f"run {number} came through and left nothing")
            if last and any(place.iterdir()):
                failures.append(f"run {number} left {', '.join(path.name for path in place.iterdir())}")
    return outcomes, failures


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    found, wrong = run(wanted, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print("; ".join(f"{name}: {count}" for name, count in found.items() if count))
    print("\n".join(wrong[:20]) or "nothing else happened")
    sys.exit(bool(wrong))
