"""Running the file that ships: providers, batches, and no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from harden_export.files import ExportError, OnnxFile
from harden_export.runtime import OnnxModel, provider, providers


def test_running_a_file_does_not_import_torch() -> None:
    code = (
        "import sys; from harden_export import bundle, latency, parity, quantize, runtime; "
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_cpu_is_always_there() -> None:
    known = {p.name: p for p in providers()}
    assert known["cpu"].available
    assert {"cuda", "tensorrt", "openvino", "coreml"} <= set(known)


def test_an_absent_provider_is_refused_with_the_package_to_install() -> None:
    absent = next(p for p in providers() if not p.available)
    with pytest.raises(ExportError, match="has no provider") as caught:
        provider(absent.name)
    assert absent.package in caught.value.hint
    with pytest.raises(ExportError, match="no execution provider is called 'abacus'"):
        provider("abacus")


def test_a_silent_fall_back_to_the_cpu_is_an_error(exported: OnnxFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lists CUDA when its library is there and starts without it when the driver is not."""
    real = onnxruntime.InferenceSession

    def without_cuda(model: bytes, options: object, providers: list[str]) -> object:
        return real(model, options, providers=[p for p in providers if p == "CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", without_cuda)
    with pytest.raises(ExportError, match="would have used the CPU instead"):
        OnnxModel(exported.path, "cuda")


def test_a_file_for_a_fixed_batch_takes_any_number_of_images(
    exported: OnnxFile, images: NDArray[np.float32], tmp_path: Path
) -> None:
    model = onnx.load(exported.path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 3
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "three.onnx")
    fixed, free = OnnxModel(tmp_path / "three.onnx"), OnnxModel(exported.path)
    for count in (1, 3, 8):
        np.testing.assert_allclose(fixed(images[:count]), free(images[:count]), rtol=1e-5, atol=1e-6)


def test_batched_is_the_same_as_at_once(exported: OnnxFile, images: NDArray[np.float32]) -> None:
    model = OnnxModel(exported.path, threads=1)
    np.testing.assert_allclose(model.batched(images, 9), model(images), rtol=1e-5, atol=1e-6)


def test_what_cannot_be_run_says_so(exported: OnnxFile, tmp_path: Path) -> None:
    junk = tmp_path / "junk.onnx"
    junk.write_bytes(b"not a model")
    with pytest.raises(ExportError, match="cannot be run by ONNX Runtime"):
        OnnxModel(junk)
    with pytest.raises(ExportError, match="cannot be read"):
        OnnxModel(tmp_path / "absent.onnx")
    with pytest.raises(ExportError, match=r"images of shape \(1, 1, 16, 16\)"):
        OnnxModel(exported.path)(np.zeros((1, 1, 16, 16), np.float32))
