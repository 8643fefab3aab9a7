"""harden: finds backdoors in image classifiers, removes the filters that carry them, and exports what may ship.

    import harden
    report = harden.clean("model.pt", clean_dir="data", arch="torchvision:resnet18", out="runs/first")
    print(report.verdict.status)

Nothing heavy is imported until it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harden.api import clean, inspect, load_run, scan, verify
    from harden.errors import HardenError, Inconclusive, UnsafeFile
    from harden.outcome import Report
    from harden.plan import Plan
    from harden.policy import Policy
    from harden.types import (
        Contract,
        Evidence,
        Filter,
        Images,
        Measurement,
        Method,
        Proposal,
        Pruned,
        Rate,
        Run,
        Splits,
        Suspect,
        Trigger,
        Verdict,
    )

__version__ = "0.1.0"

_HOME = {
    **dict.fromkeys(("clean", "scan", "inspect", "verify", "load_run"), "harden.api"),
    **dict.fromkeys(("HardenError", "UnsafeFile", "Inconclusive"), "harden.errors"),
    "Report": "harden.outcome",
    "Plan": "harden.plan",
    "Policy": "harden.policy",
    **dict.fromkeys(
        ("Contract", "Evidence", "Filter", "Images", "Measurement", "Method", "Proposal", "Pruned", "Rate", "Run")
        + ("Splits", "Suspect", "Trigger", "Verdict"),
        "harden.types",
    ),
}

__all__ = [
    "Contract",
    "Evidence",
    "Filter",
    "HardenError",
    "Images",
    "Inconclusive",
    "Measurement",
    "Method",
    "Plan",
    "Policy",
    "Proposal",
    "Pruned",
    "Rate",
    "Report",
    "Run",
    "Splits",
    "Suspect",
    "Trigger",
    "UnsafeFile",
    "Verdict",
    "clean",
    "inspect",
    "load_run",
    "scan",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'harden' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
