"""The run folder: built beside its place under a hidden name, and renamed in one step when it is whole.

Whenever the process dies, either the whole folder is there or nothing of that name is. What a killed run leaves behind
under its hidden name is removed by the next run that writes beside it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

from harden.errors import BadOutput

IN_THE_MAKING = re.compile(r"\.(.*)\.partial-([0-9a-f]{8})-(\d+)-\w+", re.DOTALL)
"""The hidden name: the folder's own, the machine, the process."""
_ours: set[str] = set()
"""Hidden names that this process has given: after a restart, a container may have the number of the one before it."""


def default_folder(model: Path, now: datetime) -> Path:
    """harden-runs/<model>-<time>, with a number behind it if that is taken."""
    wanted = Path("harden-runs") / f"{model.stem or 'model'}-{now:%Y%m%d-%H%M%S}"
    folder, number = wanted, 2
    while folder.exists():
        folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return folder


class RunFolder:
    """A folder in the making: `path` while it is made, `target` once `publish` was called; else nothing is left."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target
        self.made: list[Path] = []
        """Folders above it that were not there before, the innermost first."""

    def __enter__(self) -> RunFolder:
        refuse_taken(self.target)
        try:
            parent = self.target.absolute().parent
            self.made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
            parent.mkdir(parents=True, exist_ok=True)
            sweep(parent)
            refuse_busy(self.target)
            prefix = f".{self.target.name}.partial-{_host()}-{os.getpid()}-"
            self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            _ours.add(self.path.name)
        except OSError as error:
            raise BadOutput(
                f"{self.target} cannot be written: {error.strerror}.", hint="Give another folder with --out."
            ) from error
        return self

    def publish(self, seal: Callable[[Path], object] | None = None) -> Path:
        """Gives the folder its name. Everything is on the disk before that; `seal` sees it just as it will be."""
        refuse_taken(self.target)
        if seal is not None:
            seal(self.path)
        for file in sorted(self.path.rglob("*")):
            _sync(file)
        _sync(self.path)
        self.path.chmod(0o777 & ~_umask())  # mkdtemp made it private
        try:
            self.path.rename(self.target)  # fails if somebody put a folder with files there in the meantime
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                refuse_taken(self.target)
            raise BadOutput(f"{self.target} cannot be written: {error.strerror}.", hint="Use another --out.") from error
        _sync(self.target.absolute().parent)
        return self.target

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _ours.discard(self.path.name)
        if self.path != self.target:
            shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):  # not empty: another run lies there, or this one
            for folder in self.made:
                folder.rmdir()


def refuse_taken(target: Path) -> None:
    """A finished run is never overwritten; an empty folder may be used."""
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise BadOutput(
            f"{target} exists already, and a run never overwrites another.", hint="Give a new folder with --out."
        )


def refuse_busy(target: Path) -> None:
    """Two runs into one folder: the second would work for nothing."""
    for folder, name, host, pid in _in_the_making(target.absolute().parent):
        if name == target.name:
            place = "here" if host == _host() else "on another machine"
            raise BadOutput(
                f"another run is writing {target} at this moment (process {pid} {place}).",
                hint=f"Wait for it, or give a new folder with --out; if there is no such process, remove {folder}.",
            )


def sweep(parent: Path) -> None:
    """Removes what runs on this machine left here that are no longer alive."""
    for folder, _, host, pid in _in_the_making(parent):
        alive = folder.name in _ours if pid == os.getpid() else _alive(pid)
        if host == _host() and not alive:
            shutil.rmtree(folder, ignore_errors=True)


def _in_the_making(parent: Path) -> Iterator[tuple[Path, str, str, int]]:
    for folder in parent.glob(".*.partial-*"):
        match = IN_THE_MAKING.fullmatch(folder.name)
        if match is not None:
            yield folder, match[1], match[2], int(match[3])


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
