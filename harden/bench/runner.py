"""Methods against models: every cell in a process of its own, at most one for each core, each result kept.

A bench that was stopped goes on where it was: a cell whose file is there, with the same key and without an error, is
not run again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from itertools import product
from pathlib import Path

from harden.bench.row import Cell, Row, read, save
from harden.bench.tables import write_tables
from harden.bench.zoo import ZooModel, choose, read_zoo
from harden.errors import UsageError
from harden.types import Progress, Silent

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def bench(
    zoo: Path,
    out: Path,
    methods: Sequence[str],
    *,
    clean_per_class: Sequence[int] = (10, 50),
    seeds: Sequence[int] = (0, 1, 2),
    models: Sequence[str] | None = None,
    jobs: int = 1,
    device: str = "cpu",
    time_budget: float | None = None,
    retry_failed: bool = True,
    progress: Progress | None = None,
) -> list[Row]:
    """Runs what is missing, writes the tables into `out`, and returns every row of the table asked for.

    methods       as `spec.parse` reads them: "auto", "ft:epochs=20", "grad-prune:given"
    jobs          processes at a time, at most one for each core; each computes on one thread
    time_budget   seconds for each cell, which its method is told of
    retry_failed  run cells again that ended in an error
    """
    chosen = choose(read_zoo(zoo), models)
    cells = [Cell(m.name, *rest) for rest in product(methods, clean_per_class, seeds) for m in chosen]
    if not cells:
        raise UsageError("there is nothing to run: a method, a number of clean images and a seed are needed")
    by_name = {model.name: model for model in chosen}
    prints = {model.name: fingerprint(model) for model in chosen}
    keys = {cell: _key(cell, prints[cell.model], device, time_budget) for cell in cells}
    rows = {cell: row for cell in cells if (row := _finished(out / cell.file, keys[cell], retry_failed))}
    missing = [cell for cell in cells if cell not in rows]
    running, lock = set[subprocess.Popen[str]](), threading.Lock()

    def work(cell: Cell) -> Row:
        order = {
            "cell": asdict(cell),
            "zoo": str(zoo.resolve()),
            "file": str((out / cell.file).resolve()),
            "key": keys[cell],
            "device": device,
            "time_budget": time_budget,
            "threads": 1,
        }
        error = _in_a_process(order, running, lock)
        row = read(out / cell.file)
        if row is None or row.key != keys[cell]:
            model = by_name[cell.model]
            row = Row(cell, keys[cell], model.backdoored, model.target, error=error or "it left no result")
            save(row, out / cell.file)
        return row

    shown = progress if progress is not None else Silent()
    with shown.task("bench", len(missing)) as task, ThreadPoolExecutor(_workers(jobs)) as pool:
        try:
            for done in as_completed([pool.submit(work, cell) for cell in missing]):
                row = done.result()
                rows[row.cell] = row
                task.advance(
                    1, f"{row.cell.model}, {row.cell.method}: {row.error.splitlines()[0] if row.error else 'done'}"
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            with lock:
                for process in running:
                    process.terminate()
            raise
    found = [rows[cell] for cell in cells]
    write_tables(found, out)
    return found


def fingerprint(model: ZooModel) -> str:
    """Of what the zoo says about the model, and of its weights."""
    digest = hashlib.sha256(repr(model).encode())
    digest.update(model.weights.read_bytes() if model.weights.is_file() else b"")
    return digest.hexdigest()


def _key(cell: Cell, model: str, device: str, time_budget: float | None) -> str:
    return hashlib.sha256(json.dumps([asdict(cell), model, device, time_budget]).encode()).hexdigest()


def _finished(path: Path, key: str, retry_failed: bool) -> Row | None:
    row = read(path)
    return row if row is not None and row.key == key and not (row.error and retry_failed) else None


def _workers(jobs: int) -> int:
    return max(1, min(jobs, os.cpu_count() or 1))


def _in_a_process(order: Mapping[str, object], running: set[subprocess.Popen[str]], lock: threading.Lock) -> str:
    """Carries an order out in a new process; what went wrong if it left without a result."""
    Path(str(order["file"])).unlink(missing_ok=True)  # a result that is there afterwards is this one's
    environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
    process = subprocess.Popen(
        [sys.executable, "-m", "harden.bench.cell"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    with lock:
        running.add(process)
    try:
        said, _ = process.communicate(json.dumps(order))
    finally:
        with lock:
            running.discard(process)
    if process.returncode < 0:
        return f"ended by signal {-process.returncode}" + (" (out of memory?)" if process.returncode == -9 else "")
    if process.returncode == 0:
        return ""
    lines = said.strip().splitlines() or ["it said nothing"]
    return "\n".join([f"exit code {process.returncode}: {lines[-1]}", *lines[-8:-1]])


def summary(rows: Sequence[Row]) -> str:
    """One line for the console."""
    failed = sum(bool(row.error) for row in rows)
    seconds = math.fsum(row.seconds for row in rows)
    return f"{len(rows)} cells, {failed} failed, {seconds:.0f} s of methods"
