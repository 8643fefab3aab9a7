"""For methods that look for no trigger: they have no evidence, and say so."""

from __future__ import annotations

from dataclasses import dataclass

from harden.network import Classifier
from harden.types import Evidence, Run, Splits

WHY = "this method does not look for a trigger"


@dataclass(frozen=True)
class Nothing:
    """Recovers nothing: the verdict of the scan is open."""

    def __call__(self, model: Classifier, splits: Splits, run: Run) -> Evidence:  # noqa: ARG002
        return Evidence("inconclusive", (), (), (), WHY)
