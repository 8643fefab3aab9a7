"""Latency separates what differs, does not separate what is the same, and counts what a file weighs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harden_export.facts import file_facts
from harden_export.files import ExportError, OnnxFile
from harden_export.latency import Latency, measure_latency
from harden_export.onnx_file import export_onnx

from .conftest import SIZE, small


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> OnnxFile:
    path = tmp_path_factory.mktemp("wide") / "model.onnx"
    return export_onnx(small(width=96), path, input_size=SIZE, metadata={})


def test_every_file_at_every_setting_and_the_baseline_first(exported: OnnxFile, wide: OnnxFile) -> None:
    files = {"wide": wide.path, "narrow": exported.path}
    found = measure_latency(files, batches=(1, 4), threads=(1, 2), seconds=0.1)
    assert [(t.threads, t.batch, t.name) for t in found] == [
        (threads, batch, name) for threads in (1, 2) for batch in (1, 4) for name in files
    ]
    for timing in found:
        assert 0 < timing.p5_ms <= timing.median_ms <= timing.p95_ms
        assert timing.speedup_low <= timing.speedup <= timing.speedup_high
        assert timing.rounds >= 15
        if timing.name == "wide":
            assert (timing.speedup, timing.speedup_low, timing.speedup_high) == (1, 1, 1)


def test_a_network_of_a_sixth_of_the_width_is_faster(exported: OnnxFile, wide: OnnxFile) -> None:
    _, narrow = measure_latency({"wide": wide.path, "narrow": exported.path}, batches=(8,), threads=(1,), seconds=0.3)
    assert narrow.faster
    assert not narrow.slower
    assert narrow.speedup > 2


def test_the_same_file_twice_is_about_as_fast(wide: OnnxFile) -> None:
    _, again = measure_latency({"one": wide.path, "two": wide.path}, batches=(8,), threads=(1,), seconds=0.5)
    assert 0.7 < again.speedup < 1.4


def test_the_interval_narrows_the_verdict() -> None:
    unsure = Latency("x", 1, 1, 15, 1.0, 0.9, 1.2, speedup=1.05, speedup_low=0.95, speedup_high=1.1)
    assert not unsure.faster
    assert not unsure.slower


def test_no_files_is_an_error() -> None:
    with pytest.raises(ExportError, match="no files"):
        measure_latency({})


def test_a_file_weighs_what_the_module_weighs(exported: OnnxFile) -> None:
    facts = file_facts(exported.path)
    pixels = 16 * 16
    convolutions = 3 * 16 * 9 + 16 * 16 * 9
    folded = 2 * 16  # each batch norm has become its convolution's bias
    assert facts.parameters == convolutions + folded + 16 * 5 + 5
    assert facts.macs == pixels * convolutions + 16 * 5
    assert facts.bytes == exported.bytes
    assert np.isclose(4 * facts.parameters, facts.bytes, rtol=0.4)


def test_facts_of_an_absent_file_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_facts(tmp_path / "absent.onnx")
