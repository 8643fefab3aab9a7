"""What a reader of one format hands on: the file's tree, with tensors still in its bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harden.loading.tensors import Shelf
from harden.types import Finding


@dataclass(frozen=True, eq=False)
class Contents:
    """A scanned file: nothing of it was run, none of its tensors was made yet."""

    format: str
    about: str
    """The format in words."""
    findings: tuple[Finding, ...] = ()
    tree: Any = None
    """Dicts, lists, values, Records and StoredTensors; None where the file was refused."""
    shelf: Shelf | None = None
    architecture: str | None = None
    """Where the file itself names one (a folder's config.json)."""
    contract: dict[str, Any] = field(default_factory=dict)
    """What the file itself says of its inputs, in the keys of model.toml."""
    remarks: tuple[str, ...] = ()
    """What the format can and cannot do, in sentences."""
    rename: Callable[[str], str] | None = None
    """What `architecture` calls a weight of this file, where it is another name."""
    advice: str = ""
    """What to do where the architecture is not known."""
