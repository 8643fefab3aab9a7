"""fp16 and int8 files stay what they were made from, within their budgets, or are refused with figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from torch import nn

from harden_export import quantize
from harden_export.facts import file_facts
from harden_export.files import ExportError, OnnxFile
from harden_export.latency import Latency
from harden_export.onnx_file import Preprocessing, export_onnx
from harden_export.parity import measure_parity
from harden_export.quantize import NotWorthIt, Quantized, to_fp16, to_int8
from harden_export.runtime import OnnxModel

from .conftest import SIZE, answers, small


def agreement_with(exported: OnnxFile, images: NDArray[np.float32]) -> Callable[[Path], float]:
    """Accuracy, with what the float file says for the truth."""
    truth = OnnxModel(exported.path)(images).argmax(1)
    return lambda path: float((OnnxModel(path)(images).argmax(1) == truth).mean())


def test_fp16_halves_the_file_and_keeps_the_answers(
    images: NDArray[np.float32], names: list[str], tmp_path: Path
) -> None:
    wide = small(width=48)
    source = export_onnx(wide, tmp_path / "fp32.onnx", input_size=SIZE, metadata={"classes": "a b"})
    half = to_fp16(source, tmp_path / "fp16.onnx")
    model = OnnxModel(half.path)
    assert half.bytes < 0.62 * source.bytes
    assert model.input_type is np.float32
    assert model.metadata == {"classes": "a b", "kind": "fp16"}
    parity = measure_parity(lambda x: answers(wide, x), model, images, names, kind="fp16")
    assert parity.passed
    assert parity.max_relative > 1e-6, "nothing was rounded: this is no fp16"


def test_fp16_with_embedded_preprocessing(network: nn.Module, tmp_path: Path) -> None:
    preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    source = export_onnx(
        network, tmp_path / "fp32.onnx", input_size=SIZE, metadata={}, embed_preprocessing=preprocessing
    )
    half = OnnxModel(to_fp16(source, tmp_path / "fp16.onnx").path)
    pixels: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    parity = measure_parity(OnnxModel(source.path), half, pixels, [str(i) for i in range(20)], kind="fp16")
    assert parity.passed, parity.why


def test_int8_holds_the_budget_and_keeps_the_weights(
    exported: OnnxFile,
    images: NDArray[np.float32],
    names: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    evaluate = agreement_with(exported, images)
    written = to_int8(
        exported,
        tmp_path / "int8.onnx",
        calibration=images,
        evaluate=evaluate,
        max_drop=0.2,
        must_be_faster=False,
        seconds=0.1,
    )
    assert isinstance(written, Quantized)
    assert (written.accuracy_before, written.accuracy) == (1.0, evaluate(written.file.path))
    model = onnx.load(written.file.path)
    assert sum(n.op_type == "DequantizeLinear" for n in model.graph.node) >= 6
    assert sum(i.data_type == onnx.TensorProto.INT8 and len(i.dims) > 1 for i in model.graph.initializer) == 3
    assert OnnxModel(written.file.path).metadata["kind"] == "int8"
    assert file_facts(written.file.path).macs == file_facts(exported.path).macs
    assert file_facts(written.file.path).parameters == file_facts(exported.path).parameters
    assert measure_parity(OnnxModel(exported.path), OnnxModel(written.file.path), images, names, kind="int8").passed
    assert capfd.readouterr().out == ""


def test_sensitive_layers_stay_float_until_the_budget_holds(
    exported: OnnxFile, images: NDArray[np.float32], tmp_path: Path
) -> None:
    asked: list[int] = []

    def needs_a_float_layer(path: Path) -> float:
        """As bad as it can be while every layer is quantised."""
        nodes = onnx.load(path).graph.node
        dequantized = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear"}
        costly = [n for n in nodes if n.op_type in quantize.COSTLY]
        quantised = sum(n.input[1] in dequantized for n in costly)
        asked.append(quantised)
        return 0.5 if quantised == len(costly) else 0.9

    written = to_int8(
        exported,
        tmp_path / "int8.onnx",
        calibration=images,
        evaluate=needs_a_float_layer,
        max_drop=0.0,
        must_be_faster=False,
        seconds=0.05,
    )
    assert isinstance(written, Quantized)
    assert len(written.kept_float) == 1
    assert asked == [0, 3, 2]


def test_the_layer_that_needs_more_than_256_steps_is_the_most_sensitive(
    exported: OnnxFile, images: NDArray[np.float32], tmp_path: Path
) -> None:
    """The images' first channel is made a thousand times louder and the stem deaf to it: the answers hardly know, but
    all steps of the stem's input are spent on that channel.
    """
    model = onnx.load(exported.path)
    stem = next(n for n in model.graph.node if n.op_type == "Conv")
    weight = next(i for i in model.graph.initializer if i.name == stem.input[1])
    deaf = onnx.numpy_helper.to_array(weight).copy()
    deaf[:, 0] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(deaf, weight.name))
    onnx.save(model, tmp_path / "deaf.onnx")
    loud = images * np.reshape([1000, 1, 1], (3, 1, 1)).astype(np.float32)
    workshop = quantize._Workshop(replace(exported, path=tmp_path / "deaf.onnx"), loud, tmp_path)
    assert workshop.most_sensitive_first()[0] == stem.name


def test_too_much_accuracy_lost_is_said_with_figures(
    exported: OnnxFile, images: NDArray[np.float32], tmp_path: Path
) -> None:
    refused = to_int8(
        exported,
        tmp_path / "int8.onnx",
        calibration=images,
        evaluate=lambda path: 0.9 if path == exported.path else 0.6,
        max_drop=0.01,
    )
    assert isinstance(refused, NotWorthIt)
    assert "falls by 30.0 points, 1.0 are allowed" in refused.reason
    assert (refused.accuracy_before, refused.accuracy) == (0.9, 0.6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at_32", [0.8, 1.0, 1.8], ids=["slower", "no different", "faster in batches alone"])
def test_slower_is_said_with_figures(
    exported: OnnxFile, images: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_32: float
) -> None:
    slow = tuple(
        Latency("int8", batch, 1, 15, 2.0, 1.9, 2.1, speedup, speedup_low=speedup - 0.1, speedup_high=speedup + 0.1)
        for batch, speedup in ((1, 0.8), (32, at_32))
    )
    monkeypatch.setattr(quantize, "measure_latency", lambda *_, **__: slow)
    refused = to_int8(exported, tmp_path / "int8.onnx", calibration=images, evaluate=lambda _: 1.0)
    assert isinstance(refused, NotWorthIt)
    assert "0.80 times as fast at batch 1 (0.70 to 0.90)" in refused.reason
    assert refused.latency == slow
    assert list(tmp_path.iterdir()) == []


def test_int8_without_images_is_refused(exported: OnnxFile, images: NDArray[np.float32], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="0 came"):
        to_int8(exported, tmp_path / "int8.onnx", calibration=images[:0], evaluate=lambda _: 1.0)
