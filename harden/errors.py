"""Every error that a user can meet, and the exit code that each one ends in.

    HardenError                 3   expected trouble
    ├── UsageError              2   the command line, a plan or a policy says something impossible
    ├── BadModel                3   the model file cannot be used
    │   └── Mismatch            3   weights and architecture do not fit each other
    ├── BadData                 3   the images cannot be used
    ├── BadOutput               3   the results cannot be written
    ├── UnsafeFile              4   the model file was refused before it was opened
    └── Inconclusive            5   too little to decide on: never a pass, never a fail

Anything else that reaches the boundary is a bug: 70, with its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harden.types import Finding

MAY_SHIP = 0
POLICY_SAYS_NO = 1
USAGE = 2
TROUBLE = 3
UNSAFE = 4
INCONCLUSIVE = 5
BUG = 70
INTERRUPTED = 130


class HardenError(Exception):
    """A sentence for the user: what was expected and what came; and one next step."""

    exit_code = TROUBLE

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(HardenError):
    """The command line, a plan or a policy asks for something that cannot be."""

    exit_code = USAGE


class BadModel(HardenError):
    """The model file cannot be used: damaged, of an unknown format, or not a classifier."""


class Mismatch(BadModel):
    """The weights do not fit the architecture that was named for them."""


class BadData(HardenError):
    """The images cannot be used as they are."""


class BadOutput(HardenError):
    """The results cannot be written where they were asked for."""


class UnsafeFile(HardenError):
    """The model file holds something that is not known to be harmless, so it was not opened."""

    exit_code = UNSAFE

    def __init__(self, message: str, *, findings: Sequence[Finding] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.findings = tuple(findings)


class Inconclusive(HardenError):
    """Too little to decide on."""

    exit_code = INCONCLUSIVE
