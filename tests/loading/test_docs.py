"""docs/inputs.md lists every rule with its severity, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from harden.loading.rules import RULES


def test_the_table_of_findings_is_complete() -> None:
    text = (Path(__file__).parents[2] / "docs" / "inputs.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([\w-]+)` \| (\w+) \|", text, re.MULTILINE))
    assert listed == {name: rule.severity for name, rule in RULES.items()}
