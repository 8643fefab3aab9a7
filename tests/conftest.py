"""Fixtures that several tests share."""

from __future__ import annotations

import pytest

from harden.types import Splits
from tests import planted as hand_made


@pytest.fixture
def planted() -> hand_made.Planted:
    """A fresh copy of the network whose filters were written by hand."""
    return hand_made.planted()


@pytest.fixture
def planted_splits() -> Splits:
    """Three disjoint sets of its pictures."""
    return hand_made.splits()
