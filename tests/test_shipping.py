"""Every file that ships is measured as it is, says where it came from, and is known again; older runs still load."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import harden
from harden.errors import UnsafeFile, UsageError
from harden.exporting import export
from harden.judge import judge
from harden.outcome import Report
from harden.plan import Plan, settle
from harden.policy import Policy
from harden.provenance import metadata, plan_sha256
from harden.reports import records
from harden.reports.provenance import bill, statement
from harden.shipping import Parcel, check, sign, write_files
from harden.types import Check, Pruned, Silent, Verdict
from harden_export import quantize
from harden_export.files import ExportError, sha256
from harden_export.quantize import NotWorthIt
from harden_export.signing import SIGNATURE
from tests import planted as hand_made
from tests.export.test_bundle import WITHOUT_TORCH, schema
from tests.made import report, with_kinds

OLD = Path(__file__).parent / "fixtures" / "run-first"
"""What the first version of report.json was written with."""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = hand_made.as_received(tmp_path_factory.mktemp("sample"))
    hand_made.save_pictures(hand_made.pictures(30, 6), folder / "verify")
    return folder


@pytest.fixture(scope="module")
def run(sample: Path, keys: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, every kind, signed. Nothing is timed, so int8 need not be faster."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    found = harden.clean(
        sample / "model.pt", arch=f"{sample / 'net.py'}:net", clean_dir=sample / "data", verify_dir=sample / "verify",
        trigger=f"{sample / 'trigger.py'}:stamp", target="red", method="grad-prune", latency=False, out=folder,
        kinds="fp16,int8,pt2", sign_key=keys[0],
    )  # fmt: skip
    assert found.verdict.status == "pass"
    return folder


def measured(model: Path, pictures: Path) -> tuple[int, int, int, int]:
    """Right, of all; successes of the trigger, of all: by nothing of harden's."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    classes, mean, std = (json.loads(about[key]) for key in ("classes", "mean", "std"))
    board = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]], np.float32)[..., None]

    def said(picture: NDArray[np.float32]) -> str:
        ready = ((picture - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)[None]
        return str(classes[int(session.run(None, {"input": ready})[0].argmax())])

    right = total = success = attacked = 0
    for path in sorted(pictures.rglob("*.png")):
        picture = np.asarray(Image.open(path), np.float32) / np.float32(255)
        right, total = right + (said(picture) == path.parent.name), total + 1
        if path.parent.name != "red":
            stamped = picture.copy()
            stamped[-4:-1, -4:-1] = board
            success, attacked = success + (said(stamped) == "red"), attacked + 1
    return right, total, success, attacked


def test_every_kind_is_measured_as_an_independent_script_measures_it(run: Path, sample: Path) -> None:
    export = records.read_report(run).export
    assert export is not None
    told = {"fp32": export.measured, **{v.kind: v.measured for v in export.variants}}
    assert set(told) == {"fp32", "fp16", "int8", "pt2"}
    for kind, name in (("fp32", "model.onnx"), ("fp16", "model.fp16.onnx"), ("int8", "model.int8.onnx")):
        accuracy, asr = told[kind].accuracy, told[kind].attack_success[0].asr
        assert measured(run / name, sample / "verify") == (accuracy.hits, accuracy.total, asr.hits, asr.total), kind
    assert told["pt2"].accuracy == told["fp32"].accuracy


def test_parity_of_every_kind_is_data(run: Path) -> None:
    export = records.read_report(run).export
    assert export is not None
    for parity in (export.parity, *(v.parity for v in export.variants)):
        assert parity.argmax_agreement.total == 90
        assert parity.batch_sizes == (1, 7, 32)
        assert re.fullmatch(r"(red|green|blue)/6_\d{4}.png", parity.worst_image)
        assert parity.mean_abs is not None
        assert parity.tolerance is not None
        assert 0 < parity.mean_abs <= parity.max_abs
        assert parity.max_relative <= parity.tolerance
        assert parity.reason
    by_kind = {v.kind: v.parity.max_relative for v in export.variants}
    assert export.parity.max_relative < by_kind["fp16"] < by_kind["int8"]


def test_the_files_say_where_they_came_from_and_nothing_of_this_machine(run: Path, sample: Path) -> None:
    found = records.read_report(run)
    assert found.export is not None
    for file in found.export.files:
        assert sha256(run / file.path) == file.sha256
        content = (run / file.path).read_bytes()
        assert str(sample).encode() not in content
        assert str(Path(__file__).parent.parent).encode() not in content
        if file.kind == "pt2":
            continue
        about = onnxruntime.InferenceSession(content).get_modelmeta().custom_metadata_map
        assert about["kind"] == file.kind
        assert json.loads(about["classes"]) == ["red", "green", "blue"]
        assert about["harden.source_sha256"] == hashlib.sha256((sample / "model.pt").read_bytes()).hexdigest()
        assert about["harden.architecture"] == "net.py:net"
        assert about["harden.method"] == "grad-prune"
        assert json.loads(about["harden.data_sha256"]) == {p.name: p.sha256 for p in found.splits}
        settings = json.loads((run / "report.json").read_text())["settings"]
        assert about["harden.plan_sha256"] == plan_sha256(settings)
        assert 3 in json.loads(about["harden.removed_filters"])["conv1"]
        assert json.loads(about["harden.measured"])["accuracy"] == {"hits": 90, "total": 90}


def test_infer_classifies_with_the_shipped_file_and_without_torch(run: Path, sample: Path) -> None:
    pictures = sorted((sample / "verify").rglob("*.png"))[::10]
    command = [sys.executable, "-c", WITHOUT_TORCH, str(run / "infer.py"), *map(str, pictures)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = [line.split("\t")[1] for line in done.stdout.splitlines()]
    assert said == [path.parent.name for path in pictures]


def test_the_bill_of_materials_keeps_to_the_standard_and_names_every_file(run: Path) -> None:
    document = json.loads((run / "sbom.cdx.json").read_text())
    schema().validate(document)
    files = {c["name"]: c["hashes"][0]["content"] for c in document["components"] if c["type"] == "file"}
    shipped = {"model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.pt2", "model.safetensors", "pruning.json"}
    assert set(files) == shipped | {"infer.py"}
    assert all(sha256(run / name) == digest for name, digest in files.items())
    metrics = document["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "attack success", "value": "0", "slice": "int8, stamp (given)"}.items() <= next(
        m for m in metrics if m["type"] == "attack success" and m["slice"].startswith("int8")
    ).items()


def test_the_statement_is_about_these_very_files(run: Path) -> None:
    document = json.loads((run / "test-result.intoto.json").read_text())
    assert document["predicate"]["result"] == "PASSED"
    assert "attack-success/given/stamp/int8" in document["predicate"]["passedTests"]
    assert all(s["digest"]["sha256"] == sha256(run / s["name"]) for s in document["subject"])
    [plan] = [c for c in document["predicate"]["configuration"] if c["name"] == "plan.toml"]
    assert plan["digest"]["sha256"] == sha256(run / "plan.toml")


def verify(folder: Path, sample: Path, public: Path) -> Verdict:
    settings = {"arch": f"{sample / 'net.py'}:net", "public_key": public, "accuracy_only": True}
    return harden.verify(folder, sample / "verify", **settings).verdict  # type: ignore[arg-type]


def test_a_signed_run_is_known_again(run: Path, sample: Path, keys: tuple[Path, Path]) -> None:
    assert (run / SIGNATURE).is_file()
    verdict = verify(run, sample, keys[1])
    assert verdict.status == "pass"
    assert verdict.checks[0].name == "signature"


@pytest.mark.parametrize("name", ["model.int8.onnx", "report.json", "infer.py", "triggers/extra.png"])
def test_one_changed_byte_is_caught_and_the_file_named(
    run: Path, sample: Path, keys: tuple[Path, Path], name: str, tmp_path: Path
) -> None:
    import shutil

    folder = Path(shutil.copytree(run, tmp_path / "run"))
    raw = bytearray((folder / name).read_bytes() if (folder / name).exists() else b"new")
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(UnsafeFile, match=re.escape(name)) as caught:
        verify(folder, sample, keys[1])
    assert "digest" not in str(caught.value), "the name is what anybody needs"


@pytest.mark.parametrize("name", ["model.onnx", "model.fp16.onnx", "model.int8.onnx"])
def test_a_file_that_came_alone_is_measured_by_what_it_says_of_itself(
    run: Path, sample: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes((run / name).read_bytes())
    seen = harden.verify(tmp_path / name, sample / "verify", trigger=f"{sample / 'trigger.py'}:stamp", target="red")
    (file,) = seen.files
    told = file.measured
    asr = told.attack_success[0].asr
    assert (Path(file.path).name, file.kind) == (name, "onnx")
    assert measured(run / name, sample / "verify") == (told.accuracy.hits, told.accuracy.total, asr.hits, asr.total)
    assert seen.verdict.status == "pass"


def test_a_key_is_asked_for_a_folder_only(run: Path, sample: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="is a file"):
        verify(run / "model.onnx", sample, keys[1])


def test_what_may_not_ship_is_not_signed(keys: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    plan = Plan(sign_key=keys[0])
    sign(tmp_path, plan, Verdict("fail", ()))
    sign(tmp_path, plan, Verdict("inconclusive", ()))
    assert not (tmp_path / SIGNATURE).exists()
    sign(tmp_path, plan, Verdict("pass", ()))
    assert (tmp_path / SIGNATURE).exists()


def test_what_could_only_fail_at_the_end_fails_at_the_beginning(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no provider 'cuda'") as caught:
        check(Plan(provider="cuda"))
    assert "onnxruntime-gpu" in caught.value.hint
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(ExportError, match="nothing can be signed with"):
        harden.clean("nowhere.pt", clean_dir=tmp_path, sign_key=tmp_path / "key.pem", out=tmp_path / "run")


# --- what came of a run, in the standards' words


def test_what_was_not_decided_counts_as_failed(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text("")
    (tmp_path / "model.onnx").write_bytes(b"x")
    checks = (
        Check("a", 1, 2, True, ""),
        Check("b", None, 2, None, "not decided"),
        Check("c", 3, 2, False, "failed", waived="until tomorrow"),
    )

    def result(*chosen: Check) -> dict[str, Any]:
        run = report(verdict=Verdict("inconclusive", chosen))
        found: dict[str, Any] = statement(run, [tmp_path / "model.onnx"], tmp_path)["predicate"]
        return found

    assert result(*checks)["result"] == "FAILED"
    assert result(*checks)["failedTests"] == ["b"]
    assert result(checks[0], checks[2])["result"] == "WARNED"
    assert result(checks[0])["result"] == "PASSED"


def test_a_bill_without_the_network_of_a_program_names_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    run = report(source="/home/somebody/secret/suspect.pt")
    run = replace(run, contract=replace(run.contract, architecture="/home/somebody/net.py:net"))
    document = bill(with_kinds(run), [tmp_path / "model.onnx"])
    schema().validate(json.loads(json.dumps(document)))
    assert "/home" not in json.dumps(document)


# --- kinds that are not worth it


@pytest.fixture
def parcel() -> Parcel:
    made = hand_made.planted()
    about = metadata(hand_made.CONTRACT, made.suspect.source, Pruned(made.module, (), (), (), (), 0, {}))
    network = Pruned(made.module, (), (), (), (), 0, {})
    return Parcel(network, hand_made.CONTRACT, hand_made.splits(), (made.trigger,), about)


@pytest.mark.parametrize("kind", ["int8", "fp16"])
def test_a_kind_that_cannot_be_had_is_told_and_not_written(
    parcel: Parcel, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_good(*_: Any, **__: Any) -> NotWorthIt:
        if kind == "fp16":
            raise ExportError("it cannot be converted")
        return NotWorthIt("int8", "not faster on this machine: 0.66 times as fast", 1.0, 1.0)

    monkeypatch.setattr(quantize, f"to_{kind}", no_good)
    found = write_files(parcel, Plan(kinds=("fp32", kind), latency=False), tmp_path)
    [held] = found.withheld
    assert held.kind == kind
    assert "0.66 times as fast" in held.reason or "cannot be converted" in held.reason
    assert [file.kind for file in found.files] == ["fp32"]
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "infer.py"}


def test_every_kind_takes_pixels_where_the_preprocessing_is_embedded(parcel: Parcel, tmp_path: Path) -> None:
    plan = Plan(kinds=("fp32", "fp16", "int8"), latency=False, embed_preprocessing=True)
    found = write_files(parcel, plan, tmp_path)
    assert [file.kind for file in found.files] == ["fp32", "fp16", "int8"]
    for measured, parity in ((found.measured, found.parity), *((v.measured, v.parity) for v in found.variants)):
        assert measured.accuracy.value == 1.0
        assert parity.tolerance is not None
        assert parity.max_relative <= parity.tolerance
    asr = {v.kind: v.measured.attack_success[0].asr.value for v in found.variants}
    assert found.measured.attack_success[0].asr.value == asr["fp16"] == 1.0, "nothing was cut"
    assert asr["int8"] == 0.0, "its scales come from clean images, which never wake the guilty filter"
    for file in found.files:
        session = onnxruntime.InferenceSession(tmp_path / file.path)
        assert session.get_inputs()[0].type == "tensor(uint8)"


def test_the_budget_of_int8_is_that_of_the_policy(
    parcel: Parcel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def remember(*_: Any, max_drop: float, **__: Any) -> NotWorthIt:
        asked.append(max_drop)
        return NotWorthIt("int8", "", 1.0, 1.0)

    monkeypatch.setattr(quantize, "to_int8", remember)
    for number, policy in enumerate((Policy(), Policy(max_int8_drop=0.03))):
        write_files(parcel, Plan(kinds=("fp32", "int8"), latency=False, policy=policy), tmp_path / str(number))
    assert asked == [0.01, 0.03]


# --- harden export


def test_a_model_is_exported_as_it_is(sample: Path, tmp_path: Path) -> None:
    flags = {
        "model": sample / "model.pt", "arch": f"{sample / 'net.py'}:net", "out": tmp_path / "out", "kinds": "fp16",
        "latency": False,
    }  # fmt: skip
    noise = export(settle(flags), Silent()).export
    assert noise.measured.accuracy.total == 0, "nothing was said of noise but parity"
    assert noise.parity.argmax_agreement.total == 32
    told = export(settle({**flags, "out": tmp_path / "again", "clean_dir": sample / "verify"}), Silent()).export
    assert told.measured.accuracy.value == 1.0
    assert {path.name for path in (tmp_path / "again").iterdir()} == {"model.onnx", "model.fp16.onnx", "infer.py"}


# --- runs of before


def test_an_older_run_still_loads(sample: Path) -> None:
    found: Report = records.read_report(OLD)
    assert found.export is not None
    assert found.export.variants == ()
    assert judge(found, Policy()).status == "pass"
    jsonschema.validate(json.loads((OLD / "report.json").read_text()), json.loads(SCHEMA.read_text()))
    network = harden.load_run(OLD, arch=f"{sample / 'net.py'}:net")
    with torch.no_grad():
        assert network((torch.full((1, 3, 16, 16), 0.25) - 0.25) / 0.5).shape == (1, 3)
    again = harden.verify(
        OLD, sample / "verify", arch=f"{sample / 'net.py'}:net", trigger=f"{sample / 'trigger.py'}:stamp", target="red"
    )
    assert again.verdict.status == "pass", again.verdict
    assert [Path(file.path).name for file in again.files] == ["model.onnx", "pruning.json"]
    assert all(file.measured.attack_success[0].asr.hits == 0 for file in again.files)


SCHEMA = Path(records.__file__).parent / "report.schema.json"
