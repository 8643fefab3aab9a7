"""Looks at a zip archive before anything in it is believed.

torch, Python and operating systems read zip files differently (which of two equal names wins, whether a prefix is
skipped, whether checksums count). An archive is accepted only where there is nothing to disagree about: it begins
with its first member and ends with its directory, members neither overlap nor repeat, and local and central names
and sizes agree.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from harden.loading.opcodes import DamagedError
from harden.loading.rules import finding
from harden.types import Finding

MAX_MEMBERS = 100_000
MAX_RATIO = 200
"""Of unpacked to packed, beyond SMALL: text of TorchScript programs stays under 20."""
SMALL = 1 << 20
_LOCAL = struct.Struct("<4s5H3I2H")
_ENCRYPTED, _DESCRIPTOR = 0x1, 0x8


@dataclass(frozen=True, eq=False)
class Archive:
    """A zip archive that may be read."""

    prefix: str
    """The one folder that everything lies in, with its slash; empty where there is none."""
    members: Mapping[str, zipfile.ZipInfo]
    """By name without the prefix."""
    data: bytes
    findings: tuple[Finding, ...]

    def read(self, name: str) -> bytes:
        """A member's bytes; DamagedError where they do not fit their checksum."""
        try:
            with zipfile.ZipFile(io.BytesIO(self.data)) as file:
                return file.read(self.members[name])
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise DamagedError(f"member {name[:80]!r}: {error}") from None

    def span(self, name: str) -> memoryview:
        """A stored member's bytes without a copy."""
        info = self.members[name]
        if info.compress_type != zipfile.ZIP_STORED:
            return memoryview(self.read(name))
        start = _content_start(self.data, info)
        return memoryview(self.data)[start : start + info.file_size]


def open_archive(data: bytes, max_size: int) -> Archive:
    """Checks the archive's structure; DamagedError where there is none to check."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            infos = file.infolist()
            directory, comment = file.start_dir, file.comment
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError) as error:
        raise DamagedError(str(error)) from None
    if not infos:
        raise DamagedError("the archive is empty")
    findings: list[Finding] = []
    if len(infos) > MAX_MEMBERS:
        findings.append(finding("zip-bomb", f"{len(infos)} members"))
        return Archive("", {}, data, tuple(findings))
    if comment:
        findings.append(finding("zip-structure", f"{len(comment)} bytes follow the archive's end"))
    findings += _names(infos)
    findings += _layout(data, infos, directory)
    findings += _sizes(infos, max_size)
    roots = {info.filename.partition("/")[0] for info in infos}
    prefix = f"{roots.pop()}/" if len(roots) == 1 and all("/" in info.filename for info in infos) else ""
    return Archive(prefix, {info.filename[len(prefix) :]: info for info in infos}, data, tuple(findings))


def _names(infos: list[zipfile.ZipInfo]) -> list[Finding]:
    findings, seen = [], set()
    for info in infos:
        name = info.orig_filename
        parts = name.split("/")
        leaves = name.startswith("/") or ".." in parts or parts[0][1:2] == ":"
        if leaves or name != info.filename or "\\" in name or "\0" in name:
            findings.append(finding("zip-path", f"the member name {name[:120]!r}", name[:120]))
        if stat.S_ISLNK(info.external_attr >> 16):
            findings.append(finding("zip-path", f"the member {name[:120]!r} is a link", name[:120]))
        if name.casefold() in seen:  # torch's reader ignores case
            findings.append(finding("zip-duplicate", f"the member name {name[:120]!r}", name[:120]))
        seen.add(name.casefold())
    return findings[:50]


def _layout(data: bytes, infos: list[zipfile.ZipInfo], directory: int) -> list[Finding]:
    findings: list[Finding] = []
    end = 0
    for info in sorted(infos, key=lambda i: i.header_offset):
        name = info.filename[:120]
        if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            findings.append(finding("zip-structure", f"{name!r} is encrypted or packed in an unusual way", name))
        if info.header_offset < end or (end == 0 and info.header_offset != 0):
            findings.append(finding("zip-structure", f"{name!r} does not begin where the member before it ends", name))
        if data[info.header_offset : info.header_offset + 4] != b"PK\x03\x04":
            findings.append(finding("zip-structure", f"{name!r} has no header of its own", name))
            continue
        fields = _LOCAL.unpack_from(data, info.header_offset)
        local = data[info.header_offset + 30 : info.header_offset + 30 + fields[9]]
        sizes_known = not fields[2] & _DESCRIPTOR and 0xFFFFFFFF not in fields[7:9]
        if local != info.orig_filename.encode("utf-8", "replace") and local != info.orig_filename.encode(
            "cp437", "replace"
        ):
            findings.append(finding("zip-structure", f"{name!r} has another name in its own header", name))
        if fields[3] != info.compress_type or (sizes_known and fields[7:9] != (info.compress_size, info.file_size)):
            findings.append(finding("zip-structure", f"{name!r} has another size in its own header", name))
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            findings.append(finding("zip-structure", f"{name!r} is stored, yet has two sizes", name))
        end = _content_start(data, info) + info.compress_size
        if end > directory:
            findings.append(finding("zip-structure", f"{name!r} reaches into the archive's directory", name))
        if len(findings) > 50:
            break
    return findings


def _sizes(infos: list[zipfile.ZipInfo], max_size: int) -> list[Finding]:
    total = sum(info.file_size for info in infos)
    if total > max_size:
        return [finding("zip-bomb", f"it unpacks to {total} bytes, and {max_size} are allowed (--max-input)")]
    return [
        finding("zip-bomb", f"{i.filename[:120]!r} unpacks to {i.file_size // max(i.compress_size, 1)} times its size")
        for i in infos
        if i.file_size > SMALL and i.file_size > MAX_RATIO * i.compress_size
    ][:10]


def _content_start(data: bytes, info: zipfile.ZipInfo) -> int:
    fields = _LOCAL.unpack_from(data, info.header_offset)
    return int(info.header_offset + 30 + fields[9] + fields[10])
