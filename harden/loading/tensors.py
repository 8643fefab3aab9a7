"""Numbers out of bytes: the only place where a file's content becomes tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from harden.loading.allowed import ITEM_SIZE
from harden.loading.opcodes import DamagedError, Storage, StoredTensor

Fetch = Callable[[Storage], "memoryview"]
"""A storage's bytes."""


class Shelf:
    """Makes tensors of stored ones, each storage read once and shared as it was in the file."""

    def __init__(self, fetch: Fetch, little_endian: bool = True) -> None:
        self.fetch, self.little_endian = fetch, little_endian
        self.made: dict[str, Tensor] = {}

    def tensor(self, stored: StoredTensor) -> Tensor:
        """A tensor of its own memory; DamagedError where the file holds fewer bytes than it claims."""
        dtype = getattr(torch, stored.dtype)
        flat = self.made.get(stored.storage.key)
        if flat is None:
            raw = self.fetch(stored.storage)
            expected = stored.storage.count * ITEM_SIZE[stored.storage.dtype]
            if len(raw) != expected:
                raise DamagedError(f"storage {stored.storage.key[:40]!r} has {len(raw)} bytes instead of {expected}")
            flat = from_bytes(raw, ITEM_SIZE[stored.storage.dtype], self.little_endian)
            self.made[stored.storage.key] = flat
        size = ITEM_SIZE[stored.dtype]
        typed = flat[: len(flat) // size * size].view(dtype)
        if stored.reach > len(typed):
            raise DamagedError(f"a tensor of shape {list(stored.size)} reaches beyond its storage")
        if not stored.count:
            return torch.empty(stored.size, dtype=dtype)
        return typed.as_strided(stored.size, stored.stride, stored.offset)


def from_bytes(raw: memoryview, item: int, little_endian: bool = True) -> Tensor:
    """Bytes as a tensor of bytes, in this machine's order."""
    if not len(raw):
        return torch.empty(0, dtype=torch.uint8)
    flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    if not little_endian and item > 1:
        flat = flat.view(-1, item).flip(1).reshape(-1)
    return flat
