"""Provenance: true to its standards, readable on a device without torch, and tampering is noticed."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image
from referencing import Registry, Resource
from torch import nn

from harden_export import signing
from harden_export.bundle import (
    SIGNATURE,
    Ancestor,
    Dataset,
    Metric,
    Software,
    TamperedError,
    annotate,
    contract_metadata,
    ml_bom,
    result_statement,
    sign_folder,
    verify_folder,
    write_infer,
)
from harden_export.files import ExportError, OnnxFile, sha256
from harden_export.onnx_file import Preprocessing, export_onnx
from harden_export.runtime import OnnxModel

from .conftest import SIZE, answers

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CONTRACT = contract_metadata(classes=["a", "bé", "c", "d", "e"], input_size=SIZE, mean=MEAN, std=STD)
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def folder(exported: OnnxFile, tmp_path: Path) -> Path:
    """A model with its contract inside, and something beside it."""
    path = tmp_path / "run"
    path.mkdir()
    shutil.copy(exported.path, path / "model.onnx")
    annotate(replace(exported, path=path / "model.onnx"), CONTRACT)
    (path / "triggers").mkdir()
    (path / "triggers" / "0.txt").write_text("something beside it")
    return path


def test_annotating_changes_the_digest_and_nothing_else(exported: OnnxFile, tmp_path: Path) -> None:
    path = Path(shutil.copy(exported.path, tmp_path / "model.onnx"))
    noted = annotate(replace(exported, path=path), {"accuracy": "0.97"})
    before, after = OnnxModel(exported.path), OnnxModel(path)
    assert after.metadata == before.metadata | {"accuracy": "0.97"}
    assert (noted.sha256, noted.opset, noted.bytes) == (sha256(path), exported.opset, path.stat().st_size)
    assert noted.sha256 != exported.sha256
    image = np.ones((1, *SIZE), np.float32)
    np.testing.assert_array_equal(before(image), after(image))


# --- the bill of materials


def schema() -> jsonschema.Draft7Validator:
    folder = Path(__file__).with_name("schemas")
    documents = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    registry: Registry[Any] = Registry().with_resources(
        (f"http://cyclonedx.org/schema/{name}", Resource.from_contents(document))
        for name, document in documents.items()
    )
    return jsonschema.Draft7Validator(documents["bom-1.6.SNAPSHOT.schema.json"], registry=registry)


def bom(folder: Path) -> dict[str, Any]:
    return ml_bom(
        name="signs",
        version="1",
        description="Classifies road signs.",
        files=[folder / "model.onnx", folder / "triggers" / "0.txt"],
        tool=Software("harden", "0.1.0"),
        libraries=[Software("torch", "2.15.0+cu132"), Software("onnx_ir", "1.1")],
        ancestor=Ancestor("vendor.pt", "ab" * 32),
        architecture="torchvision:resnet18",
        metrics=[Metric("accuracy", 0.97, interval=(0.95, 0.98)), Metric("accuracy", 0.9, slice="class stop")],
        datasets=[Dataset("clean", "cd" * 32, "for tuning")],
        use_cases=["road signs"],
        limitations=["no proof of absence"],
        properties={"plan": "ef" * 32},
        created=NOON,
    )


def test_the_bill_of_materials_keeps_to_the_official_schema(folder: Path) -> None:
    document = json.loads(json.dumps(bom(folder)))
    schema().validate(document)
    model = document["metadata"]["component"]
    assert model["hashes"] == [{"alg": "SHA-256", "content": sha256(folder / "model.onnx")}]
    assert model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"][0] == {
        "type": "accuracy",
        "value": "0.97",
        "confidenceInterval": {"lowerBound": "0.95", "upperBound": "0.98"},
    }
    references = {part["bom-ref"] for part in document["components"]}
    assert set(document["dependencies"][0]["dependsOn"]) == references
    assert "pkg:pypi/onnx-ir@1.1" in references
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": "data:clean"}]


def test_a_small_bill_of_materials_is_one_too(folder: Path) -> None:
    document = ml_bom(
        name="m", version="1", description="", files=[folder / "model.onnx"], tool=Software("harden", "0.1.0")
    )
    schema().validate(document)
    assert "considerations" not in document["metadata"]["component"]["modelCard"]


def test_the_schema_would_notice_a_wrong_card(folder: Path) -> None:
    document = bom(folder)
    document["metadata"]["component"]["modelCard"]["accuracy"] = 0.97
    assert not schema().is_valid(document)


def test_the_same_file_at_the_same_time_is_the_same_document(folder: Path) -> None:
    assert bom(folder) == bom(folder)


# --- the statement


def test_the_statement_names_the_files_and_what_they_were_tested_by(folder: Path) -> None:
    statement = result_statement(
        [folder / "model.onnx"], result="FAILED", configuration={"policy.toml": "ab" * 32}, passed=["a"], failed=["b"]
    )
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert statement["subject"] == [{"name": "model.onnx", "digest": {"sha256": sha256(folder / "model.onnx")}}]
    assert statement["predicate"] == {
        "result": "FAILED",
        "configuration": [{"name": "policy.toml", "digest": {"sha256": "ab" * 32}}],
        "passedTests": ["a"],
        "warnedTests": [],
        "failedTests": ["b"],
    }


def test_a_statement_cannot_contradict_itself(folder: Path) -> None:
    files, configuration = [folder / "model.onnx"], {"policy": "ab" * 32}
    with pytest.raises(ExportError, match="PASSED and 1 tests failed"):
        result_statement(files, result="PASSED", configuration=configuration, failed=["b"])
    with pytest.raises(ExportError, match="FAILED and 0 tests failed"):
        result_statement(files, result="FAILED", configuration=configuration)
    with pytest.raises(ExportError, match="one of them is missing"):
        result_statement(files, result="PASSED", configuration={})


# --- the signature


def test_a_signed_folder_verifies_also_elsewhere(folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    assert sign_folder(folder, private) == folder / SIGNATURE
    verify_folder(folder, public)
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    verify_folder(moved, public)
    sign_folder(folder, private)
    verify_folder(folder, public)
    signed = base64.b64decode(json.loads((folder / SIGNATURE).read_text())["dsseEnvelope"]["payload"])
    assert str(folder.parent).encode() not in signed


def flip_a_byte(folder: Path) -> str:
    raw = bytearray((folder / "model.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "model.onnx").write_bytes(raw)
    return "model.onnx"


def change_what_lies_beside(folder: Path) -> str:
    (folder / "triggers" / "0.txt").write_text("something beside it!")
    return "triggers/0.txt"


def add_a_file(folder: Path) -> str:
    (folder / "extra.py").write_text("import os")
    return "extra.py"


def add_a_hidden_file(folder: Path) -> str:
    """The library would pass over it by itself."""
    (folder / ".gitattributes").write_text("*.onnx filter=evil")
    return ".gitattributes"


def remove_a_file(folder: Path) -> str:
    (folder / "triggers" / "0.txt").unlink()
    return "triggers/0.txt"


def damage_the_signature(folder: Path) -> str:
    (folder / SIGNATURE).write_text("{}")
    return "not as it was signed"


def remove_the_signature(folder: Path) -> str:
    (folder / SIGNATURE).unlink()
    return SIGNATURE


@pytest.mark.parametrize(
    "tamper",
    [
        flip_a_byte,
        change_what_lies_beside,
        add_a_file,
        add_a_hidden_file,
        remove_a_file,
        damage_the_signature,
        remove_the_signature,
    ],
)
def test_tampering_is_caught_and_the_file_named(
    folder: Path, keys: tuple[Path, Path], tamper: Callable[[Path], str]
) -> None:
    private, public = keys
    sign_folder(folder, private)
    named = tamper(folder)
    with pytest.raises(TamperedError, match=named):
        verify_folder(folder, public)


def test_digests_with_quotes_in_them_hide_no_name() -> None:
    """The library quotes such a message in another way."""
    twice = (
        "['Missing files in model \\'m\\': b', 'Hash mismatch for \\'a.onnx\\': Expected \\'x\"\\', Actual \\'y\\'']"
    )
    assert signing._named(ValueError(f"Signature mismatch: {twice}")) == "changed: a.onnx; missing files: b"


def test_another_key_does_not_verify(folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec

    sign_folder(folder, keys[0])
    other = tmp_path / "other.pub"
    other.write_bytes(
        ec.generate_private_key(ec.SECP256R1())
        .public_key()
        .public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(TamperedError):
        verify_folder(folder, other)


def test_what_is_no_key_is_said(folder: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(ExportError, match="nothing can be signed with") as caught:
        sign_folder(folder, folder / "triggers" / "0.txt")
    assert "openssl ecparam" in caught.value.hint
    assert not (folder / SIGNATURE).exists()
    sign_folder(folder, keys[0])
    with pytest.raises(ExportError, match="is not a public key"):
        verify_folder(folder, folder / "triggers" / "0.txt")


# --- infer.py

WITHOUT_TORCH = """
import runpy, sys
for name in ("torch", "harden", "harden_export", "onnx"):
    sys.modules[name] = None  # importing it is an error from now on
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def classify(folder: Path, *images: Path) -> list[list[str]]:
    command = [sys.executable, "-c", WITHOUT_TORCH, str(folder / "infer.py"), *map(str, images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        colour = rng.integers(0, 256, 3)
        noise = rng.integers(-40, 40, (16, 16, 3))
        picture = Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8))
        (picture.resize((50, 30)) if i == 3 else picture).save(path)
    return paths


def test_infer_classifies_without_torch(folder: Path, network: nn.Module, pictures: list[Path]) -> None:
    write_infer(folder)
    said = classify(folder, *pictures)
    assert [line[0] for line in said] == [str(path) for path in pictures]
    pixels = np.stack([np.asarray(Image.open(path)) for path in pictures[:3]])
    logits = answers(network, (((pixels / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).astype(np.float32))
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    names = json.loads(CONTRACT["classes"])
    assert [line[1] for line in said[:3]] == [names[i] for i in logits.argmax(1)]
    np.testing.assert_allclose([float(line[2]) for line in said[:3]], odds.max(1), atol=2e-4)


def test_infer_feeds_pixels_to_a_file_with_embedded_preprocessing(
    folder: Path, network: nn.Module, pictures: list[Path], tmp_path: Path
) -> None:
    write_infer(folder)
    embedded = tmp_path / "embedded"
    export_onnx(
        network,
        embedded / "model.onnx",
        input_size=SIZE,
        metadata=CONTRACT,
        embed_preprocessing=Preprocessing(MEAN, STD),
    )
    write_infer(embedded)
    outside, inside = classify(folder, *pictures), classify(embedded, *pictures)
    assert [line[1] for line in inside] == [line[1] for line in outside]
    np.testing.assert_allclose([float(x[2]) for x in inside], [float(x[2]) for x in outside], atol=2e-4)


def test_infer_is_not_written_beside_a_model_that_says_nothing(exported: OnnxFile, tmp_path: Path) -> None:
    shutil.copy(exported.path, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match="reads input_size, mean, std"):
        write_infer(tmp_path)
    assert not (tmp_path / "infer.py").exists()
