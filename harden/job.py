"""One run at work: its settings, its clock, its bill, and the stages it has been through."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from harden.plan import Plan
from harden.types import Cost, Progress, Run

PACKAGES = ("harden", "torch", "torchvision", "timm", "torch-pruning", "onnx", "onnxruntime", "numpy", "pillow")


@dataclass
class Job:
    """Times each stage under its name, and shows it."""

    plan: Plan
    run: Run
    created: str
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def start(cls, plan: Plan, progress: Progress) -> Job:
        device = plan.device if plan.device != "auto" else best_device()
        deadline = time.monotonic() + plan.time_budget
        run = Run(seed=plan.seed, device=device, progress=progress, cost=Cost(), deadline=deadline)
        return cls(plan, run, datetime.now(UTC).isoformat(timespec="seconds"))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A named part of the run."""
        begin = time.monotonic()
        with self.run.progress.task(name):
            yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - begin, 3)

    def take_over(self, name: str, seconds: float, cost: Mapping[str, int]) -> None:
        """A stage that an earlier run has been through: its time and its price are this run's too."""
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 3)
        self.run.cost.forward_images = cost["forward_images"]
        self.run.cost.backward_images = cost["backward_images"]
        self.run = replace(self.run, deadline=self.run.deadline - seconds)


def best_device() -> str:
    """Cuda where there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def versions() -> dict[str, str]:
    """Of everything that a result may depend on."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed influences nothing
    return found
