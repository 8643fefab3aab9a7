"""What picklescan says of a pickle, where it is installed: a finding for `inspect`, and never the rule.

The rule is the scan's own list of what may be in a file. picklescan knows what has been seen in bad ones; it is foreign
code on hostile bytes, so it gets a process of its own, with a bound on time and memory, and may fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

from harden.loading.contents import Contents
from harden.loading.rules import finding
from harden.types import Finding

SECONDS = 60
BYTES = 4 * 2**30
"""Of address space."""
_PICKLED = ("torch-zip", "torch-legacy", "pickle", "torchscript", "torch-export", "zip")
_ASK = f"""
import io, json, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, ({BYTES}, {BYTES}))
except ImportError:
    pass
from picklescan.scanner import SafetyLevel, scan_bytes
found = scan_bytes(io.BytesIO(sys.stdin.buffer.read()), "file", ".pt")
bad = sorted(f"{{g.module}}.{{g.name}}" for g in found.globals if g.safety is SafetyLevel.Dangerous)
print(json.dumps([bad, found.scan_err]))
"""


def second_opinion(data: bytes, contents: Contents) -> tuple[Finding, ...]:
    """One finding, or none where picklescan is not installed or the file holds no pickle."""
    if contents.format not in _PICKLED:
        return ()
    try:
        name = f"picklescan {version('picklescan')}"
    except PackageNotFoundError:
        return ()
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK], input=data, capture_output=True, timeout=SECONDS, check=True
        )
        bad, broken = json.loads(asked.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return (finding("second-opinion", f"{name} came to no result ({type(error).__name__})"),)
    if bad:
        more = f" and {len(bad) - 10} more" if len(bad) > 10 else ""
        return (finding("second-opinion-bad", f"{name} calls dangerous: {', '.join(bad[:10])}{more}"),)
    said = "could not read it to its end" if broken else "knows nothing bad of what it names"
    return (finding("second-opinion", f"{name} {said}"),)
