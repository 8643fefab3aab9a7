"""Methods against models, for people who compare defences."""

from __future__ import annotations

from harden.bench.runner import bench, summary

__all__ = ["bench", "summary"]
