"""What the parts of this package hand to each other: a written file, and the error that all of them raise."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkstemp
from typing import Literal

Kind = Literal["fp32", "fp16", "int8"]


class ExportError(Exception):
    """A file cannot be made or used: what was expected and what came, and one next step."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


@dataclass(frozen=True)
class OnnxFile:
    """One ONNX file as it lies on disk."""

    path: Path
    opset: int
    """As found in the file, not as it was asked for."""
    sha256: str
    bytes: int
    kind: Kind


def sha256(path: Path) -> str:
    """The file's digest, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Lends a temporary name beside `path`, and renames it at the end: `path` is never there in part.

    The suffix is kept, since some libraries decide by it. After an error, or Ctrl-C, nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.chmod(0o666 & ~_umask())  # mkstemp made it private
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
