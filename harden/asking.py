"""What a run cannot do without, asked for all at once and before anything else: every flag that is missing, by name."""

from __future__ import annotations

import shlex
from pathlib import Path

from harden.errors import BadData, BadModel, UsageError
from harden.plan import Plan
from harden.spelling import nearest

MODEL_FILES = (".pt", ".pth", ".safetensors", ".onnx", ".ckpt", ".bin")
ASKED = {
    "model": ("MODEL", "", "the model file"),
    "clean_dir": ("--clean-dir", "DIR", "clean images, one folder per class"),
    "arch": ("--arch", "FILE.py:FUNCTION", "the network for the weights: your own code, torchvision:NAME or timm:NAME"),
    "input_size": ("--input-size", "3,32,32", "channels, height and width of the images that go in"),
    "mean": ("--mean", "0.485,0.456,0.406", "what is subtracted per channel from pixels in [0, 1]"),
    "std": ("--std", "0.229,0.224,0.225", "what they are then divided by"),
}
"""Each setting's flag, an example of its value, and what it is."""


def ask(plan: Plan, verb: str) -> None:
    """Says in one message all that is missing; nothing if nothing is."""
    there(plan.model, "MODEL", BadModel)
    there(plan.clean_dir, "--clean-dir", BadData)
    missing = [key for key in ("model", "clean_dir") if getattr(plan, key) is None]
    missing += _of_the_file(plan)
    if not missing:
        return
    lines = [f"`harden {verb}` needs to know more:"]
    lines += [_line(key) for key in missing]
    if "arch" in missing and "mean" in missing:
        lines.append("  (torchvision: and timm: bring the size, mean and std of their own published weights)")
    raise UsageError("\n".join(lines), hint=f"Complete this line, or write a plan: {_command(plan, verb, missing)}")


def there(path: Path | None, flag: str, kind: type[BadModel] | type[BadData]) -> None:
    """Refuses a path that is not there, with the nearest one that is."""
    if path is None or path.exists():
        return
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise kind(f"{flag}: {path} is not there.{nearest(path.name, beside)}", hint="Check the path.")


def _of_the_file(plan: Plan) -> list[str]:
    """What the model file leaves open. It is only opened for that where nobody has said what goes into it."""
    if plan.model is None or plan.trust_code or (plan.clean_dir is not None and plan.arch is not None):
        return []
    from harden import api
    from harden.registry import planned

    planned(plan)  # a typo in it is told first: it is the nearer mistake
    return list(api.inspect_plan(plan).missing)


def _line(key: str) -> str:
    flag, _, meaning = ASKED[key]
    here = sorted(path.name for path in Path().iterdir() if path.suffix in MODEL_FILES) if key == "model" else []
    seen = f" (here: {', '.join(here[:5])})" if here else ""
    return f"  {flag:<13} {meaning}{seen}"


def _command(plan: Plan, verb: str, missing: list[str]) -> str:
    """The line with all that was given and all that is to be filled in."""
    parts = ["harden", verb, "MODEL" if plan.model is None else shlex.quote(str(plan.model))]
    for key, (flag, example, _) in list(ASKED.items())[1:]:
        value = getattr(plan, key)
        if key in missing:
            parts += [flag, example]
        elif value is not None:
            text = ",".join(str(v) for v in value) if isinstance(value, tuple) else str(value)
            parts += [flag, shlex.quote(text)]
    return " ".join(parts)
