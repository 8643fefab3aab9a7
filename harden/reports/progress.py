"""Progress as a person sees it: on stderr, so that stdout stays what was asked for; nothing at all if nobody looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import TaskID as RichTask

from harden.types import Progress as Sink
from harden.types import Silent, Task


class _Line:
    """One task of rich's display."""

    def __init__(self, display: Progress, task: RichTask) -> None:
        self.display, self.task = display, task

    def advance(self, steps: float = 1, note: str = "") -> None:
        self.display.update(self.task, advance=steps)
        if note:
            self.display.update(self.task, note=note)


class Bars:
    """A line for everything that runs at the moment, the stage first; a finished stage leaves its time behind."""

    def __init__(self, console: Console) -> None:
        self.display = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=console,
            transient=True,
        )
        self.depth = 0

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:
        begin = time.monotonic()
        if self.depth == 0:
            self.display.start()
        line = self.display.add_task("  " * self.depth + name, total=total, note="")
        self.depth += 1
        try:
            yield _Line(self.display, line)
            if self.depth == 1:
                self.display.console.print(f"  {name:<16} {time.monotonic() - begin:6.1f} s", style="dim", markup=False)
        finally:
            self.depth -= 1
            self.display.remove_task(line)
            if self.depth == 0:
                self.display.stop()


class Lines:
    """For logs: one plain line at the start of each stage, and nothing that moves."""

    def __init__(self) -> None:
        self.depth = 0

    @contextmanager
    def task(self, name: str, total: float | None = None) -> Iterator[Task]:
        begin = time.monotonic()
        self.depth += 1
        try:
            with Silent().task(name, total) as task:
                yield task
            if self.depth == 1:
                print(f"harden: {name} {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
        finally:
            self.depth -= 1


def progress(quiet: bool) -> Sink:
    """Bars for a terminal, lines for a log, silence if that was asked for."""
    if quiet:
        return Silent()
    console = Console(stderr=True)
    return Bars(console) if console.is_terminal else Lines()
