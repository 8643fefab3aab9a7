"""What this machine can do: versions, devices, and what is missing."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harden.errors import MAY_SHIP, TROUBLE
from harden.options import Format

OPTIONAL = {
    "timm": "architectures by the name timm:NAME",
    "model-signing": "signed run folders",
    "picklescan": "a second opinion in `harden inspect`",
}


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    what: str
    found: str
    works: bool | None
    """None: absent, and only needed by those who want it."""


def doctor(format: Format) -> int:
    """Prints the examination; 0 if `harden clean` can run here."""
    found = examination()
    works = all(f.works is not False for f in found)
    if format is not Format.text:
        print(json.dumps({"works": works, "findings": [asdict(f) for f in found]}, indent=1))
    else:
        for f in found:
            print(f"{ {True: '✓', False: '✗', None: '-'}[f.works] } {f.what:<21} {f.found}")
        print("Everything that `harden clean` needs is here." if works else "`harden clean` cannot run here as it is.")
    return MAY_SHIP if works else TROUBLE


def examination() -> list[Finding]:
    """Everything that a run depends on, tried and not only looked up."""
    found = [Finding("python", f"{platform.python_version()} on {platform.platform()}", True)]
    found.append(Finding("processor", f"{_threads()} of {os.cpu_count()} cores, {_memory()}", True))
    found += [_torch(), _onnxruntime(), *_providers()]
    for name in ("torchvision", "torch-pruning", "onnx", "onnxscript", "safetensors", "numpy", "pillow"):
        found.append(_package(name))
    for name, use in OPTIONAL.items():
        entry = _package(name)
        found.append(entry if entry.works else Finding(name, f"not installed: {use}", None))
    found.append(_writable())
    return found


def _package(name: str) -> Finding:
    try:
        return Finding(name, version(name), True)
    except PackageNotFoundError:
        return Finding(name, f"missing: pip install {name}", False)


def _torch() -> Finding:
    try:
        import torch
    except Exception as error:  # a broken installation may fail in any way, and that is the finding
        return Finding("torch", f"cannot be imported: {error}", False)
    devices = "no GPU that torch can use"
    if torch.cuda.is_available():
        names = (torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        devices = ", ".join(f"cuda:{i} {name}" for i, name in enumerate(names))
    return Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads, {devices}", True)


def _onnxruntime() -> Finding:
    try:
        import onnxruntime

        from harden_export.runtime import providers
    except Exception as error:
        return Finding("onnxruntime", f"cannot be imported: {error}", False)
    return Finding("onnxruntime", onnxruntime.__version__, any(p.name == "cpu" and p.available for p in providers()))


def _providers() -> list[Finding]:
    """What --provider takes here, and what would have to be installed for the rest."""
    try:
        from harden_export.runtime import providers
    except Exception:
        return []  # told by the line before
    return [
        Finding(f"  --provider {p.name}", "here" if p.available else f"install {p.package}", p.available or None)
        for p in providers()
    ]


def _threads() -> int:
    """Cores that this process may use, which a container may have cut down."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return "memory not known"
    return f"{available / 1e6:.1f} GB of memory free"


def _writable() -> Finding:
    here = Path.cwd()
    good = os.access(here, os.W_OK)
    return Finding("run folders", f"{here} {'can' if good else 'cannot'} be written (or give --out)", good or None)
