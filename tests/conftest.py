"""Fixtures that several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from harden.types import Splits
from tests import planted as hand_made


@pytest.fixture
def planted() -> hand_made.Planted:
    """A fresh copy of the network whose filters were written by hand."""
    return hand_made.planted()


@pytest.fixture
def planted_splits() -> Splits:
    """Three disjoint sets of its pictures."""
    return hand_made.splits()


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private and a public key, as openssl would write them."""
    pytest.importorskip("model_signing", reason="the extra 'sign' is not installed")
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = (tmp_path_factory.mktemp("keys") / name for name in ("key.pem", "key.pub"))
    private.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo))
    return private, public
