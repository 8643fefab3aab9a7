"""A foreign network is tried with a bound on what it may take: its settings may ask for any size of picture inside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import resource
except ImportError:  # not on Windows, where nothing is bounded
    resource = None  # type: ignore[assignment]

from harden.loading.rules import MAX_SIZE

ROOM = 2 * MAX_SIZE
"""Bytes: 8 GiB, far beyond what two images take in any classifier."""


@contextmanager
def bounded(room: int = ROOM) -> Iterator[None]:
    """What goes beyond so many further bytes of address space fails as if the machine had no more."""
    held = _address_space()
    if resource is None or not held:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    known = [limit for limit in (soft, hard, held + room) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(known), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """Of this process, in bytes; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
