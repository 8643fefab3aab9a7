"""Clean unlearning: what a network forgets last, and which weights move most while it forgets.

    theta_u = argmax CE(f(x), y) over clean images, by a few steps of ascent until accuracy is gone

RNP reads which filters survive, ULRL which rows of the classifier move, TSBD which filters move.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from harden.network import Classifier
from harden.repair.losses import accuracy, cross_entropy
from harden.repair.train import Schedule, fit
from harden.types import Images, Run


@dataclass(frozen=True)
class Unlearn:
    """Ascent on the clean loss, on a copy; the model itself is not touched."""

    schedule: Schedule = field(
        default_factory=lambda: Schedule(epochs=20, least_steps=80, batch=128, rate=0.01, clip=20.0)
    )
    until: float = 0.2
    """Accuracy on the images it forgets at which it stops."""
    retries: int = 3
    """After NaN or infinity it starts again, each time at a tenth of the rate."""

    def __call__(self, model: Classifier, images: Images, run: Run) -> tuple[Classifier, dict[str, Any]]:
        schedule, record = self.schedule, {}
        for _ in range(self.retries + 1):
            forgetful = model.copy()
            record = fit(
                forgetful, images, _ascent, schedule, run, name="clean unlearning", stop=self._forgotten(images)
            )
            if "finite" not in record["stopped_because"]:
                break
            schedule = replace(schedule, rate=schedule.rate / 10)
        return forgetful, {**record, "accuracy": accuracy(forgetful, images).value}

    def _forgotten(self, images: Images) -> Callable[[Classifier], str | None]:
        def stop(model: Classifier) -> str | None:
            reached = accuracy(model, images)
            return f"accuracy down to {reached}" if reached.value <= self.until else None

        return stop


def _ascent(model: Classifier, batch: Images) -> Tensor:
    return -cross_entropy(model, batch)
