"""torch.export's .pt2 archives, of which only the raw weights are read.

`torch.export.load` runs what the archive holds (pickled sample inputs, pickled constants, expressions), so it is
never called on a file that nobody has vouched for. The weights lie beside the program as plain bytes with a JSON
description; whatever is pickled among them is refused.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from harden.loading import pickled
from harden.loading.allowed import ITEM_SIZE
from harden.loading.archive import Archive, open_archive
from harden.loading.contents import Contents
from harden.loading.opcodes import DamagedError, Storage, StoredTensor
from harden.loading.rules import finding, is_unsafe
from harden.loading.tensors import Shelf
from harden.types import Finding

_DTYPES = {  # torch's ScalarType in the schema of torch.export
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    12: "bool", 13: "bfloat16", 28: "uint16",
}  # fmt: skip
MAX_JSON = 64 * 2**20
MAX_NESTED = 2**30
_LIBRARIES = (".so", ".dll", ".dylib", ".o", ".cubin", ".py", ".pyc")


def looks_like(archive: Archive) -> bool:
    """Whether torch.export wrote it, in its present or its earlier layout."""
    return "archive_format" in archive.members or "serialized_exported_program.json" in archive.members


def read(archive: Archive) -> Contents:
    """The weights by their original names."""
    findings: list[Finding] = list(archive.findings)
    findings.append(finding("code-export", "torch.export archives are programs; only the raw weights are read"))
    configs = [n for n in archive.members if n.startswith("data/weights/") and n.endswith("_weights_config.json")]
    about = "a torch.export archive (.pt2)"
    if len(configs) != 1:
        raise DamagedError(f"{len(configs)} descriptions of weights where one is expected (an older or packaged .pt2?)")
    raw = archive.read(configs[0])
    if len(raw) > MAX_JSON:
        raise DamagedError("the description of the weights is too long")
    try:
        config = json.loads(raw)["config"]
        entries = dict(config)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"the description of the weights makes no sense: {str(error)[:80]}") from None
    tree: dict[str, StoredTensor] = {}
    for name, entry in entries.items():
        try:
            tree[name] = _stored(archive, entry)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            findings.append(finding("json-header", f"{name[:120]!r}: {str(error)[:120]}", name[:120]))

    findings += _pickles(archive)

    def fetch(storage: Storage) -> memoryview:
        return memoryview(archive.read(storage.key))

    return Contents("torch-export", about, tuple(findings[:50]), tree, Shelf(fetch))


def _pickles(archive: Archive) -> list[Finding]:
    """Sample inputs and constants are pickled; they are judged, though nobody here opens them."""
    findings = []
    for name in archive.members:
        if name.startswith("data/") and name.endswith((".pt", ".pkl")):
            inner = open_archive(archive.read(name), MAX_NESTED)
            found = inner.findings
            if not any(is_unsafe(f) for f in found):
                found = pickled.read_archive(inner, script=False).findings
            findings += [replace(f, location=f"{name}: {f.location}") for f in found]
        elif name.startswith("data/constants/") and name.endswith("_config.json"):
            if b'"use_pickle": true' in archive.read(name) or b'"use_pickle":true' in archive.read(name):
                findings.append(finding("pickle-global", "a constant is pickled", name))
        elif name.endswith(_LIBRARIES):
            findings.append(finding("zip-member", f"the member {name[:120]!r} is compiled code", name[:120]))
    return findings


def _stored(archive: Archive, entry: dict[str, Any]) -> StoredTensor:
    meta, file = entry["tensor_meta"], entry["path_name"]
    if entry.get("use_pickle") is not False:
        raise ValueError("is pickled, which plain weights never are")
    member = f"data/weights/{file}"
    if not isinstance(file, str) or "/" in file or member not in archive.members:
        raise ValueError(f"lies in {str(file)[:60]!r}, which is not there")
    dtype = _DTYPES[meta["dtype"]]
    size = tuple(length["as_int"] for length in meta["sizes"])
    stride = tuple(step["as_int"] for step in meta["strides"])
    offset = meta["storage_offset"]["as_int"]
    if not all(type(n) is int and 0 <= n < 2**48 for n in (*size, *stride, offset)) or len(size) != len(stride):
        raise ValueError("has a shape that is not made of counts")
    held = archive.members[member].file_size
    stored = StoredTensor(Storage(member, dtype, held // ITEM_SIZE[dtype]), dtype, offset, size, stride)
    if stored.reach * ITEM_SIZE[dtype] > held or stored.count > max(stored.reach - offset, 0):
        raise ValueError(f"has the shape {list(size)} and only {held} bytes")
    return stored
