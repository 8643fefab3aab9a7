"""Files of torch.save, new (a zip archive) and legacy (a row of pickles), and plain pickles: read, never unpickled."""

from __future__ import annotations

import struct

from harden.loading import opcodes
from harden.loading.allowed import ITEM_SIZE
from harden.loading.archive import Archive
from harden.loading.contents import Contents
from harden.loading.opcodes import DamagedError, Reading, Storage
from harden.loading.rules import finding
from harden.loading.tensors import Shelf
from harden.types import Finding

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
MAX_PICKLE = 256 * 2**20
_KNOWN = (
    "data.pkl", "version", ".data/version", "byteorder", ".format_version", ".storage_alignment",
    ".data/serialization_id",
)  # fmt: skip
_SCRIPT = ("constants.pkl", "attributes.pkl", "constants/", "code/", "extra/", "traced_inputs", "tensors/")


def read_archive(archive: Archive, *, script: bool) -> Contents:
    """The archive of torch.save, or (script) of torch.jit.save, of which only the weights are taken."""
    findings = list(archive.findings) + _foreign_members(archive, script)
    pickle = archive.read("data.pkl")
    if len(pickle) > MAX_PICKLE:
        raise DamagedError(f"data.pkl has {len(pickle)} bytes")
    reading = opcodes.read(pickle, where="data.pkl", script=script)
    findings += reading.findings + _trailing(reading, len(pickle))
    for storage in reading.storages.values():
        info = archive.members.get(f"data/{storage.key}")
        expected = storage.count * ITEM_SIZE[storage.dtype]
        if info is None:
            if findings:  # being broken as well hides nothing
                break
            raise DamagedError(f"storage {storage.key[:40]!r} is missing")
        if info.file_size != expected:
            message = f"storage {storage.key[:40]!r} has {info.file_size} bytes and claims {expected}"
            findings.append(finding("pickle-size", message, f"data/{storage.key[:40]}"))
    if script:
        findings += _other_pickles(archive)
        findings.append(finding("code-torchscript", "TorchScript is a program; only its weights are read"))
    order = archive.read("byteorder").strip() if "byteorder" in archive.members else b"little"

    def fetch(storage: Storage) -> memoryview:
        return memoryview(archive.read(f"data/{storage.key}"))

    return Contents(
        "torchscript" if script else "torch-zip",
        "a TorchScript archive (torch.jit.save)" if script else "a checkpoint of torch.save",
        tuple(findings),
        reading.value,
        Shelf(fetch, little_endian=order != b"big"),
    )


def read_legacy(data: bytes) -> Contents:
    """The format of torch.save before 1.6: magic number, protocol, system, object, keys, and then the storages."""
    about = "a checkpoint of torch.save in its old format"
    readings: list[Reading] = []
    try:
        while len(readings) < 5:
            start = readings[-1].end if readings else 0
            readings.append(opcodes.read(data, start, where=f"legacy pickle {len(readings)}"))
        magic, protocol, _system, body, keys = readings
        if magic.value != LEGACY_MAGIC or protocol.value != LEGACY_PROTOCOL:
            raise DamagedError("the legacy header does not fit")
        spans, end = _spans(data, body, keys)
    except DamagedError:
        findings = [f for reading in readings for f in reading.findings]
        if not findings:  # being broken as well hides nothing
            raise
        return Contents("torch-legacy", about, tuple(findings))
    findings = [f for reading in readings for f in reading.findings]
    if end != len(data):
        findings.append(finding("pickle-malformed", f"{len(data) - end} bytes follow the checkpoint's end"))
    shelf = Shelf(lambda storage: spans[storage.key])
    return Contents("torch-legacy", about, tuple(findings), body.value, shelf)


def _spans(data: bytes, body: Reading, keys: Reading) -> tuple[dict[str, memoryview], int]:
    """Where each storage lies, and where the last one ends."""
    spans: dict[str, memoryview] = {}
    position = keys.end
    view = memoryview(data)
    for key in keys.value if isinstance(keys.value, list) else []:
        storage = body.storages.get(str(key))
        if storage is None or position + 8 > len(data):
            raise DamagedError(f"storage {str(key)[:40]!r} is missing")
        (count,) = struct.unpack_from("<q", data, position)
        length = storage.count * ITEM_SIZE[storage.dtype]
        if count != storage.count or position + 8 + length > len(data):
            raise DamagedError(f"storage {str(key)[:40]!r} has {count} numbers and claims {storage.count}")
        spans[storage.key] = view[position + 8 : position + 8 + length]
        position += 8 + length
    if set(body.storages) - set(spans):
        raise DamagedError("storages are missing")
    return spans, position


def read_plain(data: bytes) -> Contents:
    """A pickle that torch did not write: it can only hold values, since tensors need code to be made."""
    reading = opcodes.read(data, where="pickle")
    findings = reading.findings + _trailing(reading, len(data))
    return Contents("pickle", "a plain pickle", tuple(findings), reading.value, None)


def is_legacy(data: bytes) -> bool:
    """Whether torch's magic number comes first."""
    try:
        return bool(opcodes.read(data[:64], where="legacy header").value == LEGACY_MAGIC)
    except DamagedError:
        return False


def _trailing(reading: Reading, length: int) -> list[Finding]:
    if reading.end == length:
        return []
    return [finding("pickle-malformed", f"{length - reading.end} bytes follow the pickle's end")]


def _other_pickles(archive: Archive) -> list[Finding]:
    """The pickles that a TorchScript program keeps beside its own: not read here, but by whoever runs it."""
    findings = []
    for name in archive.members:
        if name != "data.pkl" and name.endswith((".pkl", ".debug_pkl")):
            findings += opcodes.read(archive.read(name), where=name, script=True).findings
    return findings


def _foreign_members(archive: Archive, script: bool) -> list[Finding]:
    """Members that torch did not write: nobody here reads them, but somebody else might."""
    foreign = []
    for name in archive.members:
        expected = name in _KNOWN or (name.startswith("data/") and "/" not in name[5:])
        if script:
            expected = expected or name.startswith(_SCRIPT)
        if not expected and name:
            foreign.append(finding("zip-member", f"the member {name[:120]!r}", name[:120]))
    return foreign[:20]
