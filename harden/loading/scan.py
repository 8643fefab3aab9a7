"""The scan that comes first: bytes in, contents out, or a refusal. Nothing of the file is run, no suffix is believed.

The bytes are read once; what is hashed, scanned and later turned into tensors is this one piece of memory.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from harden.errors import BadModel, UnsafeFile
from harden.loading import exported, onnx_file, pickled, safetensors
from harden.loading.archive import Archive, open_archive
from harden.loading.contents import Contents
from harden.loading.opcodes import DamagedError
from harden.loading.rules import MAX_SIZE, RULES, finding, is_unsafe
from harden.loading.second_opinion import second_opinion
from harden.types import Finding, Source


class UnknownError(DamagedError):
    """The bytes are whole, perhaps, but of no format that is read here."""


@dataclass(frozen=True, eq=False)
class Scanned:
    """A file as it was when it was looked at."""

    source: Source
    contents: Contents
    data: bytes


def read_bytes(path: Path, max_size: int = MAX_SIZE) -> bytes:
    """A regular file's bytes, if there are not too many."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise BadModel(f"{path} is a folder", hint="name the model file in it")
        if not stat.S_ISREG(status.st_mode):
            raise BadModel(f"{path} is no regular file", hint="copy the model into a file")
        if status.st_size > max_size:
            too_large = finding("file-size", f"{status.st_size} bytes, and {max_size} are allowed")
            raise UnsafeFile(
                f"{path} has {status.st_size} bytes; at most {max_size} are read",
                findings=[too_large],
                hint="raise --max-input if you expect such a large model",
            )
        with path.open("rb") as file:
            data = file.read(max_size + 1)
    except OSError as error:
        raise BadModel(f"{path} cannot be read: {error.strerror or error}", hint="check the path") from None
    if len(data) > max_size:
        raise UnsafeFile(f"{path} grew beyond {max_size} bytes while it was read", hint="copy it and try again")
    return data


def scan(path: Path, max_size: int = MAX_SIZE, *, trust_code: bool = False, ask_others: bool = False) -> Scanned:
    """Reads and judges a file. UnsafeFile where it holds anything that is not known to be harmless.

    ask_others    what other scanners say is found as well, and changes nothing
    """
    data = read_bytes(path, max_size)
    digest = hashlib.sha256(data).hexdigest()
    try:
        contents = look(data, max_size)
    except UnknownError as error:
        raise BadModel(
            f"{path} is no model that can be read: {error}", hint="see docs/inputs.md for what can"
        ) from None
    except DamagedError as error:
        raise BadModel(
            f"{path} is truncated or damaged: {error} ({len(data)} bytes, sha256 {digest[:16]}...)",
            hint="ask for the file again and compare its size and checksum with the sender's",
        ) from None
    if ask_others:
        contents = replace(contents, findings=contents.findings + second_opinion(data, contents))
    if not trust_code:
        refuse(path, contents.findings, contents.about)
    return Scanned(Source(path, digest, contents.format, len(data), contents.findings), contents, data)


def refuse(path: Path, findings: Iterable[Finding], about: str) -> None:
    """Raises UnsafeFile if one of the findings is bad enough."""
    bad = [f for f in findings if is_unsafe(f)]
    if not bad:
        return
    lines = [f"  {f.rule}: {f.message}" + (f" ({f.location})" if f.location else "") for f in bad[:10]]
    more = f"\n  and {len(bad) - 10} more" if len(bad) > 10 else ""
    raise UnsafeFile(
        f"{path} was not opened. It is {about} that {RULES[bad[0].rule].about}:\n" + "\n".join(lines) + more,
        findings=tuple(findings),
        hint="ask for the weights alone (a state dict in .safetensors), "
        "or pass --trust-code if you would run any program of this sender",
    )


def look(data: bytes, max_size: int = MAX_SIZE) -> Contents:
    """Which format the bytes really are, and what is in them; DamagedError where they are cut off or scrambled."""
    if not data:
        raise DamagedError("the file is empty")
    if data[:4] == b"PK\x03\x04":
        return _look_into_zip(open_archive(data, max_size))
    if safetensors.looks_like(data):
        return safetensors.read(data)
    if data[:1] == b"\x80" or _looks_like_old_pickle(data):
        return pickled.read_legacy(data) if pickled.is_legacy(data) else pickled.read_plain(data)
    if onnx_file.looks_like(data):
        return onnx_file.read(data)
    raise UnknownError(_what_else(data))


def _look_into_zip(archive: Archive) -> Contents:
    members = archive.members
    if any(is_unsafe(f) for f in archive.findings):
        return Contents("zip", "a zip archive", archive.findings)
    if exported.looks_like(archive):
        return exported.read(archive)
    if "data.pkl" in members:
        script = "constants.pkl" in members or any(name.startswith("code/") for name in members)
        return pickled.read_archive(archive, script=script)
    for name, meaning in (
        ("keras_metadata.pb", "a Keras model"),
        ("config.json", "a Keras model or a packed folder"),
        (".data/extern_modules", "a torch.package archive, which is code"),
    ):
        if name in members:
            raise UnknownError(f"it is {meaning}, which is not read here")
    raise UnknownError("it is a zip archive, but none that torch wrote")


def _looks_like_old_pickle(data: bytes) -> bool:
    """Protocols 0 and 1 have no header: the first instruction has to be one that a pickle may begin with."""
    return data[:1] in b"(}])lcdipI]SVUXKMJFGNL" and data.rstrip()[-1:] == b"."


def _what_else(data: bytes) -> str:
    for start, meaning in (
        (b"version https://git-lfs", "it is a Git LFS pointer and not the model: run `git lfs pull`"),
        (b"\x89HDF", "it is an HDF5 file (Keras), and only PyTorch and ONNX models are read"),
        (b"GGUF", "it is a GGUF file, which holds no image classifier"),
        (b"<", "it is a web page or XML, probably in place of the download"),
        (b"{", "it is JSON and no model"),
        (b"\x1f\x8b", "it is packed with gzip: unpack it first"),
        (b"BZh", "it is packed with bzip2: unpack it first"),
        (b"Rar!", "it is a RAR archive: unpack it first"),
        (b"7z\xbc\xaf", "it is a 7z archive: unpack it first"),
        (b"\x93NUMPY", "it is a NumPy array"),
        (b"PK", "it is a zip archive that does not begin with a member"),
        (b"\x7fELF", "it is a program"),
        (b"MZ", "it is a program"),
    ):
        if data.startswith(start):
            return meaning
    if data[4:8] == b"TFL3":
        return "it is a TensorFlow Lite model, and only PyTorch and ONNX models are read"
    if data[257:262] == b"ustar":
        return "it is a tar archive: unpack it first"
    return f"it begins with {data[:8].hex(' ')}, which no known model format does"
