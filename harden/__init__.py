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
    "harden.api": ("clean", "scan", "inspect", "verify", "load_run"),
    "harden.errors": ("HardenError", "UnsafeFile", "Inconclusive"),
    "harden.outcome": ("Report",),
    "harden.plan": ("Plan",),
    "harden.policy": ("Policy",),
}
"""Where each name lives; all others of __all__ in harden.types."""

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
    if name not in __all__:
        raise AttributeError(f"module 'harden' has no attribute {name!r}")
    home = next((module for module, names in _HOME.items() if name in names), "harden.types")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
