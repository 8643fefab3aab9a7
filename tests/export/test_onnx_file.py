"""What the exported file is, beyond giving the right answers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harden_export.files import ExportError, OnnxFile, sha256, written_whole
from harden_export.onnx_file import Preprocessing, export_onnx, export_program, with_preprocessing
from harden_export.parity import measure_parity
from harden_export.runtime import OnnxModel

from .conftest import SIZE, answers, small


def test_names_batch_opset_and_metadata_are_as_asked(exported: OnnxFile) -> None:
    model = OnnxModel(exported.path)
    proto = onnx.load(exported.path)
    assert (model.input_name, proto.graph.output[0].name) == ("input", "logits")
    assert model.input_shape == ("batch", *SIZE)
    assert exported.opset == 20 == proto.opset_import[0].version
    assert model.metadata == {"classes": "a b c d e", "kind": "fp32"}
    assert exported.sha256 == sha256(exported.path)
    assert exported.bytes == exported.path.stat().st_size


def test_nothing_of_this_machine_is_in_the_file(exported: OnnxFile) -> None:
    raw = exported.path.read_bytes()
    for path in (Path(__file__).parent, Path(torch.__file__).parent, Path.home()):
        assert str(path).encode() not in raw
    assert b"stack_trace" not in raw


def test_the_same_module_gives_the_same_bytes_and_another_one_others(
    network: nn.Module, exported: OnnxFile, tmp_path: Path
) -> None:
    metadata = {"classes": "a b c d e"}
    again = export_onnx(network, tmp_path / "again.onnx", input_size=SIZE, metadata=metadata)
    other = export_onnx(small(seed=1), tmp_path / "other.onnx", input_size=SIZE, metadata=metadata)
    assert again.sha256 == exported.sha256 != other.sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.onnx", "other.onnx"]


def test_stdout_stays_silent_and_the_module_as_it_was(
    network: nn.Module, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network.train()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            written = export_onnx(network, tmp_path / "model.onnx", input_size=SIZE, metadata={})
        assert network.training
    finally:
        network.eval()
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    one = np.ones((1, *SIZE), np.float32)
    np.testing.assert_allclose(OnnxModel(written.path)(one), answers(network, one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [13, 17])
def test_an_opset_that_would_silently_become_another_is_refused(network: nn.Module, tmp_path: Path, opset: int) -> None:
    with pytest.raises(ExportError, match=f"opset {opset} was asked for"):
        export_onnx(network, tmp_path / "model.onnx", input_size=SIZE, metadata={}, opset=opset)
    assert list(tmp_path.iterdir()) == []


def test_embedded_preprocessing_takes_pixels(network: nn.Module, tmp_path: Path) -> None:
    preprocessing = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    written = export_onnx(
        network, tmp_path / "model.onnx", input_size=SIZE, metadata={}, embed_preprocessing=preprocessing
    )
    pixels: NDArray[np.uint8] = np.random.default_rng(1).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)
    model = OnnxModel(written.path)
    assert model.input_type is np.uint8
    normalised = (pixels.transpose(0, 3, 1, 2) / 255 - np.reshape((0.4, 0.5, 0.6), (3, 1, 1))) / np.reshape(
        (0.2, 0.25, 0.3), (3, 1, 1)
    )
    np.testing.assert_allclose(model(pixels), answers(network, normalised.astype(np.float32)), rtol=1e-4, atol=1e-5)
    reference = with_preprocessing(network, preprocessing)
    names = [str(i) for i in range(9)]
    assert measure_parity(lambda x: answers(reference, x), model, pixels, names, (1, 4)).passed


class Branches(nn.Module):
    """Cannot be traced."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_a_module_that_cannot_be_exported_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be written as ONNX"):
        export_onnx(Branches(), tmp_path / "model.onnx", input_size=SIZE, metadata={})
    with pytest.raises(ExportError, match="written as a torch"):
        export_program(Branches(), tmp_path / "model.pt2", input_size=SIZE)
    assert list(tmp_path.iterdir()) == []


def _write_half(draft: Path) -> None:
    draft.write_text("half")
    raise KeyboardInterrupt


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as draft:
        _write_half(draft)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_program_gives_the_same_answers(network: nn.Module, images: NDArray[np.float32], tmp_path: Path) -> None:
    path = export_program(network, tmp_path / "model.pt2", input_size=SIZE)
    program = torch.export.load(path).module()  # our own file: loading one from elsewhere would run its code
    for batch in (1, 5):
        part = torch.from_numpy(images[:batch])
        torch.testing.assert_close(program(part), network(part))
