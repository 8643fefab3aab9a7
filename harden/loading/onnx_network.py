"""An ONNX graph as a network that can be differentiated and pruned.

Convolutions, batch norms and matrices become torch's own layers, everything else a step of plain functions. Shapes
travel as Python numbers, so that a graph with a free batch size keeps it. Operators that are not known here are
named, all of them at once. What is built has to agree with ONNX Runtime on the same bytes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harden.errors import BadModel
from harden.loading import limits, onnx_file
from harden.loading.onnx_ops import LAYERS, OPERATORS, UnsupportedError

TOLERANCE = 1e-3
"""Largest relative difference to ONNX Runtime: float32 sums in another order, over a hundred layers."""
MAX_BATCH = 256
"""Images that a file may ask for at once."""
BOUNDED = ("Clip", "Pad")
"""Operators whose scalars are numbers: torch.export follows no tensor into one."""
FREE_BATCH = "ask for a file that was exported with a free batch size (dynamic axes), or for the weights"


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

    def __init__(
        self, steps: list[Step], entry: str, exit_: str, numbers: dict[str, Any], batch: int | None = None
    ) -> None:
        super().__init__()
        self.steps, self.entry, self.exit = steps, entry, exit_
        self.batch = batch
        """The only number of images that the file was exported for, if there is such a one."""
        self.alone = False
        """Each image goes through by itself, since the graph can be freed for no other number."""
        self.numbers = numbers
        """Constants that are shapes, axes and the like."""
        self.constants: dict[str, str] = {}
        """Tensor constants: their buffers by their names in the graph."""

    def forward(self, images: Tensor) -> Any:
        if self.alone and len(images) > 1:
            return torch.cat([self(image) for image in images.split(1)])
        values: dict[str, Any] = {self.entry: images, "": None, **self.numbers}
        for name, buffer in self.constants.items():
            values[name] = getattr(self, buffer)
        for step in self.steps:
            inputs = [values[name] for name in step.inputs]
            if step.operator == "Reshape" and self.batch is not None:
                inputs[1] = freed(inputs[1], inputs[0], self.batch, len(images))
            if step.layer:
                result = getattr(self, step.layer)(inputs[0])
            else:
                result = OPERATORS[step.operator](step.attributes, *inputs)
            if step.operator == "ConstantOfShape" and isinstance(result, Tensor):
                result = result.to(images.device)
            if len(step.outputs) == 1:
                values[step.outputs[0]] = result
            else:
                parts = result if isinstance(result, tuple | list) else (result,)
                values.update(zip(step.outputs, parts, strict=False))
        return values[self.exit]


def freed(shape: list[Any], x: Any, fixed: int, images: int) -> list[Any]:
    """The shape that a graph for `fixed` images gives x, for another number of images, and for fewer channels."""
    if not isinstance(x, Tensor) or not shape or shape[0] != fixed or x.shape[0] != images:
        return shape
    if len(shape) == 2 and x.dim() > 2:
        return [images, -1]
    return [images, *shape[1:]] if -1 in shape or x.numel() != math.prod(shape) else shape


def _fixed_batch(graph: Any, entry: str) -> int | None:
    """The number of images that a graph takes, if it takes no other."""
    dims = next(value for value in graph.input if value.name == entry).type.tensor_type.shape.dim
    return (dims[0].dim_value or None) if dims else None


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
    network = OnnxNetwork([], entries[0], graph.output[0].name, {}, _fixed_batch(graph, entries[0]))
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant":
            held[node.output[0]] = _constant(attributes)
            continue
        if node.op_type == "Identity" and node.input[0] in held:  # how torch's older exporter shares equal weights
            held[node.output[0]] = held[node.input[0]]
            continue
        step = Step(node.op_type, tuple(node.input), tuple(o for o in node.output if o), _plain(attributes))
        try:
            network.steps.append(_layered(network, step, held))
        except UnsupportedError as error:
            raise BadModel(f"the ONNX node {node.name[:80]!r} ({node.op_type}) cannot be imported: {error}") from None
    used = {name for step in network.steps for name in step.inputs if not step.layer}
    bounds = {name for step in network.steps if step.operator in BOUNDED for name in step.inputs[1:]}
    for name, array in held.items():
        if name in used:
            _keep(network, name, array, number=name in bounds and array.ndim == 0)
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


def _keep(network: OnnxNetwork, name: str, array: Any, *, number: bool = False) -> None:
    if np.issubdtype(array.dtype, np.floating) and not number:
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


def _constant(attributes: dict[str, Any]) -> Any:
    from onnx import numpy_helper

    if "value" in attributes:
        try:
            return numpy_helper.to_array(attributes["value"])
        except (ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise BadModel(f"a constant of the ONNX graph is damaged: {str(error)[:200]}") from None
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
        elif value is None:
            raise BadModel(
                f"the ONNX graph has an attribute {key[:40]!r} without a value", hint="ask for the file again"
            )
        else:
            plain[key] = value if isinstance(value, int | float | str) else _listed(key, value)
    return plain


def _listed(key: str, value: Any) -> list[Any]:
    """The numbers of a list or of a tensor; BadModel for a graph, or for a tensor that is damaged."""
    from onnx import TensorProto, numpy_helper

    try:
        return numpy_helper.to_array(value).flatten().tolist() if isinstance(value, TensorProto) else list(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise BadModel(f"the attribute {key[:40]!r} of the ONNX graph is damaged: {str(error)[:200]}") from None


def one_by_one(module: nn.Module, size: tuple[int, int, int]) -> None:
    """Where a graph for one image answers two otherwise together, or not at all, it gets one at a time from now on."""
    if not isinstance(module, OnnxNetwork) or module.batch != 1:
        return
    images = torch.rand(2, *size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), limits.bounded():
            together, apart = module(images), torch.cat([module(image) for image in images.split(1)])
        largest = apart.abs().max().clamp_min(1e-6)
        module.alone = together.shape != apart.shape or not (together - apart).abs().max() <= TOLERANCE * largest
    except Exception:  # shapes that do not fit, and the like: the try that follows says which
        module.alone = True


def check(module: nn.Module, data: bytes, size: tuple[int, int, int]) -> None:
    """Holds the imported network against ONNX Runtime on the same bytes; BadModel where they differ."""
    import onnxruntime as ort

    count = (module.batch if isinstance(module, OnnxNetwork) else None) or 1
    if count > MAX_BATCH:
        raise BadModel(f"the ONNX file takes {count} images at once and no other number", hint=FREE_BATCH)
    images = torch.rand(count, *size, generator=torch.Generator().manual_seed(0))
    ort.set_default_logger_severity(4)
    try:
        session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        expected = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0])
    except Exception as error:  # ONNX Runtime has exceptions of its own, all of them RuntimeErrors or worse
        raise BadModel(f"ONNX Runtime cannot run this file: {str(error)[:200]}") from None
    with torch.no_grad():
        got = module(images)
        among = module(torch.cat([images, images.flip(3)]))[:count]
    if among.shape != got.shape or not (among - got).abs().max() <= TOLERANCE * got.abs().max().clamp_min(1e-6):
        raise BadModel(f"the ONNX graph answers {count} images otherwise among others than alone", hint=FREE_BATCH)
    difference = (got - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
    if got.shape != expected.shape or not difference <= TOLERANCE:
        raise BadModel(
            f"the imported network differs from ONNX Runtime by {float(difference):.2g} (relative); it is not used",
            hint="ask for the PyTorch weights and their architecture",
        )
