"""Safetensors: a JSON header of names, dtypes, shapes and offsets, then the numbers."""

from __future__ import annotations

import json
import struct
from typing import Any

from harden.loading.allowed import ITEM_SIZE
from harden.loading.contents import Contents
from harden.loading.opcodes import MAX_DIMENSIONS, DamagedError, Storage, StoredTensor
from harden.loading.rules import finding
from harden.loading.tensors import Shelf
from harden.types import Finding

MAX_HEADER = 100_000_000  # the format's own limit
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def looks_like(data: bytes) -> bool:
    """A length that fits, then a JSON object."""
    return len(data) > 10 and data[8:9] == b"{" and struct.unpack_from("<Q", data)[0] <= MAX_HEADER


def read(data: bytes) -> Contents:
    """The header is held against the data: no gaps, no overlaps, no shape that disagrees with its bytes."""
    (length,) = struct.unpack_from("<Q", data)
    if length > len(data) - 8:
        raise DamagedError(f"the header claims {length} bytes, and the file ends before")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_no_repeats)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"the header is no JSON: {str(error)[:120]}") from None
    start = 8 + length
    findings: list[Finding] = []
    header.pop("__metadata__", None)
    tree: dict[str, StoredTensor] = {}
    spans: dict[str, tuple[int, int]] = {}
    for name, entry in header.items():
        problem = _problem(entry)
        if problem:
            findings.append(finding("safetensors-header", f"{name[:120]!r} {problem}", name[:120]))
            continue
        begin, end = entry["data_offsets"]
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        spans[name] = (begin, end)
        tree[name] = StoredTensor(Storage(name, dtype, _count(shape)), dtype, 0, shape, _strides(shape))
    position = 0
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != position:
            findings.append(finding("safetensors-header", f"{name[:120]!r} leaves a gap or overlaps", name[:120]))
            break
        position = end
    if not findings and start + position != len(data):
        if start + position > len(data):
            raise DamagedError(f"the header speaks of {position} bytes, and {len(data) - start} came")
        findings.append(finding("safetensors-header", f"{len(data) - start - position} bytes belong to no tensor"))
    view = memoryview(data)

    def fetch(storage: Storage) -> memoryview:
        begin, end = spans[storage.key]
        return view[start + begin : start + end]

    return Contents("safetensors", "a safetensors file", tuple(findings[:50]), tree, Shelf(fetch))


def _problem(entry: Any) -> str:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "is not described by dtype, shape and data_offsets"
    shape, offsets = entry["shape"], entry["data_offsets"]
    if entry["dtype"] not in _DTYPES:
        return f"has the unknown dtype {str(entry['dtype'])[:20]!r}"
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        return "has a shape that is not made of counts"
    if len(shape) > MAX_DIMENSIONS:
        return f"has {len(shape)} dimensions"
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        return "has offsets that are no pair of counts"
    if offsets[1] - offsets[0] != _count(tuple(shape)) * ITEM_SIZE[_DTYPES[entry["dtype"]]]:
        return "has a shape that does not fit its bytes"
    return ""


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a name stands in it twice")
    return dict(pairs)


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return tuple(strides)
