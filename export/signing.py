"""A folder is signed as a whole with an offline key, in OpenSSF Model Signing's format.

One detached signature covers the digest of every file, so a changed, added or missing file is named. The keys are
elliptic curve keys in PEM, made offline:

    openssl ecparam -name prime256v1 -genkey -noout -out key.pem
    openssl ec -in key.pem -pubout -out key.pub
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harden_export.files import ExportError, written_whole

SIGNATURE = "model.sig"


class TamperedError(ExportError):
    """The folder is not what was signed, or the signature is not of this key."""


def check_key(private_key: Path, *, password: str | None = None) -> None:
    """Returns if the key can sign; else raises what signing would."""
    _signer(_library(), private_key, password)


def sign_folder(folder: Path, private_key: Path, *, password: str | None = None) -> Path:
    """Signs every file of the folder and returns the signature, which lies among them."""
    library = _library()
    target = folder / SIGNATURE
    signer = _signer(library, private_key, password)
    try:
        with TemporaryDirectory() as elsewhere:  # a draft among the files would be signed with them
            signature = Path(elsewhere) / SIGNATURE
            signer.set_hashing_config(_every_file(library)).sign(folder, signature)
            with written_whole(target) as draft:
                draft.write_bytes(signature.read_bytes())
    except (OSError, TypeError, ValueError) as error:
        raise ExportError(f"{folder} cannot be signed: {error}") from error
    return target


def _signer(library: Any, private_key: Path, password: str | None) -> Any:
    try:
        return library.signing.Config().use_elliptic_key_signer(private_key=private_key, password=password)
    except (OSError, TypeError, ValueError) as error:
        raise ExportError(
            f"nothing can be signed with {private_key}: {error}",
            hint="A private elliptic curve key in PEM is needed: openssl ecparam -name prime256v1 -genkey -noout.",
        ) from error


def verify_folder(folder: Path, public_key: Path) -> None:
    """Returns if every file is as it was signed; raises `TamperedError`, which names those that are not."""
    library = _library()
    signature = folder / SIGNATURE
    if not signature.is_file():
        raise TamperedError(f"{folder} has no signature: {SIGNATURE} is not there.")
    try:
        verifier = library.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, TypeError, ValueError) as error:
        raise ExportError(f"{public_key} is not a public key: {error}") from error
    try:
        verifier.set_hashing_config(_every_file(library)).verify(folder, signature)
    except Exception as error:  # a damaged signature ends in whatever its parser raises: it is as good as none
        raise TamperedError(f"{folder} is not as it was signed: {_named(error)}", hint="Do not deploy it.") from error


def _named(error: Exception) -> str:
    """Which files; the library also writes both digests of each, as raw bytes."""
    said = str(error)
    changed = re.findall(
        r"Hash mismatch for \\?'([^'\\]*)\\?': Expected", said
    )  # quoted twice where the digest has a quote
    moved = re.findall(r"((?:Extra|Missing) files)(?: found)? in model \\?'[^']*': ([^\"\]]*?)(?=[\"\]]|',)", said)
    parts = [f"changed: {', '.join(changed)}"] if changed else []
    parts += [f"{what.lower()}: {names}" for what, names in moved]
    return "; ".join(parts) or said


def _every_file(library: Any) -> Any:
    """All but the signature; by itself the library would also pass over .git and the like."""
    return library.hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)


def _library() -> Any:
    try:
        import model_signing
        from model_signing import hashing, signing, verifying  # noqa: F401 - they are used through the package
    except ModuleNotFoundError as error:
        raise ExportError(
            f"signing needs the packages model-signing and pyopenssl; {error.name} is missing.",
            hint="pip install 'harden[sign]'",
        ) from error
    return model_signing
