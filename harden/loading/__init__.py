"""Bytes in, module out: one file per input format, and the scan that comes first."""

from __future__ import annotations

from harden.loading.opening import Inspection, inspect, load

__all__ = ["Inspection", "inspect", "load"]
