"""What a file weighs: bytes, parameters, and multiplications for one image, counted in the ONNX graph itself.

Conv           prod(output) * prod(kernel without its output channels)
Gemm, MatMul   prod(output) * length of the rows that are multiplied      (outputs without their batch)
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx

from harden_export.files import ExportError


@dataclass(frozen=True)
class FileFacts:
    """The size of a file by three measures."""

    bytes: int
    parameters: int
    """Numbers in weights and biases, whatever their type; scales and zero points of int8 are not among them."""
    macs: int
    """Multiply-accumulates of convolutions and matrix products for one image."""


def file_facts(path: Path) -> FileFacts:
    """Counts them, whether the weights are floats or come through DequantizeLinear."""
    try:
        graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise ExportError(f"the shapes in {path} do not fit each other: {error}") from error
    stored = {tensor.name: tensor for tensor in graph.initializer}
    shape = _shapes(graph)
    behind = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    parameters: dict[str, int] = {}
    macs = 0
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for name in (behind.get(name, name) for name in node.input):
            if name in stored and _is_weight(stored[name]):
                parameters[name] = prod(stored[name].dims)
        if node.op_type == "Conv":
            macs += prod(shape[node.output[0]][1:]) * prod(shape[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            macs += prod(shape[node.output[0]][1:]) * shape[node.input[0]][-1]
    return FileFacts(path.stat().st_size, sum(parameters.values()), macs)


def _shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Of every tensor; an open dimension, which is the batch, counts as 1."""
    shapes: dict[str, tuple[int, ...]] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
    return shapes


def _is_weight(tensor: onnx.TensorProto) -> bool:
    """Single numbers, and the shapes that Reshape takes (int64), are constants of the architecture."""
    return len(tensor.dims) > 0 and tensor.data_type != onnx.TensorProto.INT64
