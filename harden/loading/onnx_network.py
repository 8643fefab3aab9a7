"""An ONNX graph as a network that can be differentiated and pruned.

Convolutions, batch norms and matrices become torch's own layers, everything else a step of plain functions. Shapes
travel as Python numbers, so that a graph with a free batch size keeps it. Operators that are not known here are
named, all of them at once. What is built has to agree with ONNX Runtime on the same bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harden.errors import BadModel
from harden.loading import onnx_file
from harden.loading.onnx_ops import LAYERS, OPERATORS, UnsupportedError

TOLERANCE = 1e-3
"""Largest relative difference to ONNX Runtime: float32 sums in another order, over a hundred layers."""


@dataclass(frozen=True)
class Step:
    """One node: a layer of the network or a function, on values by name."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    layer: str = ""


class OnnxNetwork(nn.Module):
    """Runs the graph step by step."""

    def __init__(self, steps: list[Step], entry: str, exit_: str, numbers: dict[str, Any]) -> None:
        super().__init__()
        self.steps, self.entry, self.exit = steps, entry, exit_
        self.numbers = numbers
        """Constants that are shapes, axes and the like."""
        self.constants: dict[str, str] = {}
        """Tensor constants: their buffers by their names in the graph."""

    def forward(self, images: Tensor) -> Any:
        values: dict[str, Any] = {self.entry: images, "": None, **self.numbers}
        for name, buffer in self.constants.items():
            values[name] = getattr(self, buffer)
        for step in self.steps:
            inputs = [values[name] for name in step.inputs]
            if step.layer:
                result = getattr(self, step.layer)(inputs[0])
            else:
                result = OPERATORS[step.operator](step.attributes, *inputs)
            if len(step.outputs) == 1:
                values[step.outputs[0]] = result
            else:
                parts = result if isinstance(result, tuple | list) else (result,)
                values.update(zip(step.outputs, parts, strict=False))
        return values[self.exit]


def build(data: bytes) -> nn.Module:
    """The network in an ONNX file; BadModel where it has operators that are not known here."""
    from onnx import helper, numpy_helper

    graph = onnx_file.parse(data).graph
    try:
        held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    except (ValueError, TypeError, RuntimeError) as error:
        raise BadModel(f"a tensor of the ONNX file is damaged: {str(error)[:200]}") from None
    entries = [value.name for value in graph.input if value.name not in held]
    if len(entries) != 1:
        raise BadModel(f"the ONNX graph takes {len(entries)} inputs, and one (images) is expected")
    unknown = Counter(n.op_type for n in graph.node if n.op_type not in OPERATORS | LAYERS and n.op_type != "Constant")
    if unknown:
        named = ", ".join(f"{op} ({count})" for op, count in unknown.most_common())
        raise BadModel(
            f"the ONNX graph uses operators that cannot be imported: {named}",
            hint="ask for the PyTorch weights and their architecture; only float image classifiers are imported",
        )
    network = OnnxNetwork([], entries[0], graph.output[0].name, {})
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            held[node.output[0]] = _constant(attributes, numpy_helper)
            continue
        step = Step(node.op_type, tuple(node.input), tuple(o for o in node.output if o), _plain(attributes))
        try:
            network.steps.append(_layered(network, step, held))
        except UnsupportedError as error:
            raise BadModel(f"the ONNX node {node.name[:80]!r} ({node.op_type}) cannot be imported: {error}") from None
    used = {name for step in network.steps for name in step.inputs if not step.layer}
    for name, array in held.items():
        if name in used:
            _keep(network, name, array)
    return network.float().eval()


def _layered(network: OnnxNetwork, step: Step, held: dict[str, Any]) -> Step:
    """The step with a torch layer in its place, where its weights are constants."""
    make = LAYERS.get(step.operator)
    if make is None or not all(name in held or not name for name in step.inputs[1:]):
        if step.operator in LAYERS and step.operator not in OPERATORS:
            raise UnsupportedError("its weights are computed and not given")
        return step
    layer = make(step.attributes, *(held[name] if name else None for name in step.inputs[1:]))
    if layer is None:
        return step
    weight = step.inputs[1].removesuffix(".weight") if len(step.inputs) > 1 else step.operator
    name = _free(network, weight)
    network.add_module(name, layer)
    return Step(step.operator, step.inputs[:1], step.outputs[:1], {}, name)


def _keep(network: OnnxNetwork, name: str, array: Any) -> None:
    if np.issubdtype(array.dtype, np.floating):
        buffer = _free(network, f"constant_{name}")
        network.register_buffer(buffer, torch.from_numpy(np.array(array, dtype=np.float32)))
        network.constants[name] = buffer
    elif array.size > 10_000:
        raise BadModel(f"the ONNX constant {name[:80]!r} has {array.size} integers: no image classifier needs that")
    else:
        network.numbers[name] = array.tolist()


def _free(network: nn.Module, name: str) -> str:
    base = re.sub(r"\W", "_", name)[:80] or "layer"
    base = f"_{base}" if base[0].isdigit() else base
    candidate, count = base, 1
    while hasattr(network, candidate):
        candidate, count = f"{base}_{count}", count + 1
    return candidate


def _constant(attributes: dict[str, Any], numpy_helper: Any) -> Any:
    if "value" in attributes:
        return numpy_helper.to_array(attributes["value"])
    for key in ("value_float", "value_floats"):
        if key in attributes:
            return np.array(attributes[key], dtype=np.float32)
    for key in ("value_int", "value_ints"):
        if key in attributes:
            return np.array(attributes[key], dtype=np.int64)
    raise BadModel("an ONNX constant is neither a number nor a tensor")


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as Python's own text, numbers and lists."""
    plain: dict[str, Any] = {}
    for key, value in attributes.items():
        if isinstance(value, bytes):
            plain[key] = value.decode("utf-8", "replace")
        else:
            plain[key] = value if isinstance(value, int | float | str) else list(value)
    return plain


def check(module: nn.Module, data: bytes, size: tuple[int, int, int]) -> None:
    """Holds the imported network against ONNX Runtime on the same bytes; BadModel where they differ."""
    import onnxruntime as ort

    images = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    ort.set_default_logger_severity(4)
    try:
        session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        expected = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
    except Exception as error:  # ONNX Runtime has exceptions of its own, all of them RuntimeErrors or worse
        raise BadModel(f"ONNX Runtime cannot run this file: {str(error)[:200]}") from None
    with torch.no_grad():
        got = module(images)
    difference = (got - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
    if got.shape != expected.shape or not difference <= TOLERANCE:
        raise BadModel(
            f"the imported network differs from ONNX Runtime by {float(difference):.2g} (relative); it is not used",
            hint="ask for the PyTorch weights and their architecture",
        )
