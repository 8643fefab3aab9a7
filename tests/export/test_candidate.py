"""A candidate is judged by the file it would become."""

from __future__ import annotations

from torch import nn

from harden_export.candidate import Candidate, Stopwatch
from harden_export.files import OnnxFile
from harden_export.latency import Latency

from .conftest import SIZE, small


def test_a_narrower_network_is_faster_and_its_file_is_the_one_that_would_ship(
    network: nn.Module, exported: OnnxFile
) -> None:
    with Stopwatch(small(width=96), input_size=SIZE, batch=8, seconds=0.3) as stopwatch:
        narrow = stopwatch(network)
        folder = stopwatch.original.path.parent
        assert narrow.speedup > 2
        assert narrow.reaches(speedup=1.5, max_bytes=exported.bytes)
        assert not narrow.reaches(max_bytes=exported.bytes // 2)
        assert abs(narrow.bytes - exported.bytes) < 100  # the metadata apart
        assert not stopwatch(small(width=96)).reaches(speedup=1.5)
    assert not folder.exists()


def test_a_speed_up_that_may_be_chance_is_not_reached() -> None:
    latency = Latency("x", 1, 1, 15, 1.0, 0.9, 1.2, speedup=1.6, speedup_low=1.4, speedup_high=1.8)
    assert not Candidate(1000, latency).reaches(speedup=1.5)
    assert Candidate(1000, latency).reaches(speedup=1.4, max_bytes=1000)
    assert Candidate(1000, latency).reaches()
