"""Parity passes what is equal, and catches an output that was bent in the graph itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from torch import nn

from harden_export.files import ExportError, OnnxFile
from harden_export.parity import TOLERANCES, measure_parity
from harden_export.runtime import OnnxModel

from .conftest import answers


def test_an_honest_export_is_equal_in_every_batch_size(
    network: nn.Module, exported: OnnxFile, images: NDArray[np.float32], names: list[str]
) -> None:
    parity = measure_parity(lambda x: answers(network, x), OnnxModel(exported.path), images, names)
    assert parity.passed
    assert parity.max_relative < 1e-5
    assert parity.mean_abs <= parity.max_abs
    assert (parity.agree, parity.images, parity.batch_sizes) == (40, 40, (1, 7, 32))


def bend(source: Path, target: Path, operator: str, number: float) -> OnnxModel:
    """The same file with one more node between the head and the logits."""
    model = onnx.load(source)
    graph = model.graph
    graph.node[-1].output[0] = "straight"
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(number), "by"))
    graph.node.append(onnx.helper.make_node(operator, ["straight", "by"], ["logits"], name="bend"))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, target)
    return OnnxModel(target)


@pytest.mark.parametrize(("operator", "number"), [("Mul", 1.9), ("Mul", 1.001), ("Add", 0.01), ("Mul", float("nan"))])
def test_a_bent_output_is_caught(
    network: nn.Module,
    exported: OnnxFile,
    images: NDArray[np.float32],
    names: list[str],
    tmp_path: Path,
    operator: str,
    number: float,
) -> None:
    """Each of them keeps the top class, or would pass a comparison that NaN slips through."""
    bent = bend(exported.path, tmp_path / "bent.onnx", operator, number)
    parity = measure_parity(lambda x: answers(network, x), bent, images, names)
    assert not parity.passed
    assert parity.max_relative > TOLERANCES["fp32"].relative


def test_the_worst_image_is_named_and_every_batch_size_counts(
    network: nn.Module, images: NDArray[np.float32], names: list[str]
) -> None:
    def wrong_on_image_seven_in_batches_of_seven(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = answers(network, batch)
        if len(batch) == 7 and np.array_equal(batch[0], images[7]):
            logits[0] = np.roll(logits[0], 1)
        return logits

    reference = lambda x: answers(network, x)  # noqa: E731 - one line beside its twin
    parity = measure_parity(reference, wrong_on_image_seven_in_batches_of_seven, images, names)
    assert not parity.passed
    assert parity.worst_image == "class/007.png"
    assert parity.agree == 39
    assert measure_parity(reference, wrong_on_image_seven_in_batches_of_seven, images, names, (1, 32)).passed


def test_large_logits_are_judged_by_their_own_scale(images: NDArray[np.float32], names: list[str]) -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(40, 5)) * 1e4
    parity = measure_parity(lambda x: logits[: len(x)], lambda x: logits[: len(x)] + 0.005, images, names, (40,))
    assert parity.passed
    assert parity.max_abs == pytest.approx(0.005)


def test_no_images_is_no_parity(network: nn.Module, exported: OnnxFile, images: NDArray[np.float32]) -> None:
    with pytest.raises(ExportError, match="0 images"):
        measure_parity(lambda x: answers(network, x), OnnxModel(exported.path), images[:0], [])


def test_every_tolerance_has_its_reason() -> None:
    assert set(TOLERANCES) == {"fp32", "fp16", "int8", "pt2"}
    assert all(len(t.reason) > 40 for t in TOLERANCES.values())
