"""ONNX files. Written below."""

from __future__ import annotations

from harden.loading.contents import Contents
from harden.loading.opcodes import DamagedError


def looks_like(data: bytes) -> bool:
    return False


def read(data: bytes, max_size: int) -> Contents:
    raise DamagedError("ONNX")
