"""A short run of benchmarks/fuzz.py: broken files end in a sentence, never in a traceback."""

from __future__ import annotations

import pytest

from benchmarks import fuzz


@pytest.mark.filterwarnings("ignore")
def test_mutated_files_end_in_a_sentence() -> None:
    outcomes, failures = fuzz.run(100, seed=1, quick=True)
    assert failures == []
    assert sum(outcomes.values()) == 100
    assert outcomes["BadModel"] + outcomes["UnsafeFile"] > 50  # the mutations do break what they touch
