"""A torch module becomes one ONNX file that says nothing about the machine it was made on.

    input   float32 (batch, C, H, W), already normalised        or, with the preprocessing embedded,
            uint8   (batch, H, W, C), pixels as an image file decodes to: (pixels / 255 - mean) / std happens inside
    logits  float32 (batch, classes)

The batch is free. The same module gives the same bytes.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from harden_export.files import ExportError, OnnxFile, written_whole
from harden_export.graph import PROTOBUF_LIMIT, forget_origin, set_metadata, write_onnx

__all__ = ["ExportError", "OnnxFile", "Preprocessing", "export_onnx", "export_program", "with_preprocessing"]

LOWEST_OPSET = 18
"""Asked for less, the exporter gives 18 and says nothing."""


@dataclass(frozen=True)
class Preprocessing:
    """What happens to pixels before the network: (pixels / 255 - mean) / std, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class _FromPixels(nn.Module):
    """A network that takes images as they are decoded: uint8, channels last."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1))

    def forward(self, input: Tensor) -> Tensor:
        pixels = input.permute(0, 3, 1, 2).to(torch.float32) / 255
        logits: Tensor = self.network((pixels - self.mean) / self.std)
        return logits


def with_preprocessing(module: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """The reference for a file with embedded preprocessing: uint8 (N, H, W, C) in, logits out."""
    return _FromPixels(deepcopy(module).cpu(), preprocessing).eval()


def export_onnx(
    module: nn.Module,
    path: Path,
    *,
    input_size: tuple[int, int, int],
    metadata: Mapping[str, str],
    opset: int = 20,
    embed_preprocessing: Preprocessing | None = None,
) -> OnnxFile:
    """Writes `module` as one ONNX file and returns what lies there. `input_size` is channels, height, width."""
    if opset < LOWEST_OPSET:
        raise ExportError(
            f"opset {opset} was asked for; the exporter writes {LOWEST_OPSET} and up.",
            hint=f"Ask for opset {LOWEST_OPSET} or more; ONNX's version converter may bring the file further down.",
        )
    weights = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    if weights > PROTOBUF_LIMIT:
        raise ExportError(f"the model's weights are {weights / 2**30:.1f} GiB; one ONNX file holds at most 2 GiB.")
    network, example = _ready(module, input_size, embed_preprocessing)
    with _quiet():
        try:
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise _refused("ONNX", error) from error
    assert program is not None  # only the legacy exporter returns None
    model = program.model_proto
    forget_origin(model)
    set_metadata(model, {"kind": "fp32", **metadata})
    return write_onnx(model, path, kind="fp32", opset=opset)


def export_program(module: nn.Module, path: Path, *, input_size: tuple[int, int, int]) -> Path:
    """Writes `module` as a torch.export program (.pt2), batch free. Loading one runs code: only load your own."""
    network, example = _ready(module, input_size, None)
    with _quiet():
        try:
            program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        except Exception as error:  # torch.export raises whatever the traced code, or a dozen of its own classes, raise
            raise _refused("a torch.export program", error) from error
        for graph in (m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)):
            for node in graph.graph.nodes:
                node.meta.pop("stack_trace", None)  # absolute paths of this machine
        archive = io.BytesIO()  # by a path, its name would go into the file
        torch.export.save(program, archive)
    with written_whole(path) as draft:
        draft.write_bytes(archive.getvalue())
    return path


def _ready(
    module: nn.Module, input_size: tuple[int, int, int], preprocessing: Preprocessing | None
) -> tuple[nn.Module, Tensor]:
    """A private copy in eval mode on the CPU, and images to trace it with (two: one would become a constant)."""
    channels, height, width = input_size
    if preprocessing is not None:
        return with_preprocessing(module, preprocessing), torch.zeros(2, height, width, channels, dtype=torch.uint8)
    return deepcopy(module).cpu().eval(), torch.zeros(2, channels, height, width)


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on stdout, which may be carrying JSON; no warnings about the exporter's own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _refused(what: str, error: BaseException) -> ExportError:
    cause = error.__cause__ or error
    first = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    return ExportError(
        f"the model cannot be written as {what}: {type(cause).__name__}: {first}",
        hint="Often a forward() that branches on values, or takes the batch size as a Python number, is the cause.",
    )
