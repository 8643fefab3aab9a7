"""An in-toto statement that these very files passed or failed these very tests.

https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from harden_export.files import ExportError, sha256

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"

Result = Literal["PASSED", "WARNED", "FAILED"]


def result_statement(
    files: Sequence[Path],
    *,
    result: Result,
    configuration: Mapping[str, str],
    passed: Sequence[str] = (),
    warned: Sequence[str] = (),
    failed: Sequence[str] = (),
) -> dict[str, Any]:
    """The statement, unsigned. `configuration`: what the tests were set up by, name to SHA-256."""
    if not files or not configuration:
        raise ExportError("a test result is about files, tested by a configuration; one of them is missing.")
    if (result == "FAILED") != bool(failed):
        raise ExportError(f"the result is {result} and {len(failed)} tests failed: that cannot be.")
    return {
        "_type": STATEMENT,
        "subject": [{"name": path.name, "digest": {"sha256": sha256(path)}} for path in files],
        "predicateType": PREDICATE,
        "predicate": {
            "result": result,
            "configuration": [
                {"name": name, "digest": {"sha256": digest}} for name, digest in sorted(configuration.items())
            ],
            "passedTests": list(passed),
            "warnedTests": list(warned),
            "failedTests": list(failed),
        },
    }
