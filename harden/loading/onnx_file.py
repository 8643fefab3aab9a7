"""ONNX files: what is in them, judged before anything is built. The network itself is made by onnx_network.py."""

from __future__ import annotations

from collections import Counter
from typing import Any

from harden.loading.contents import Contents
from harden.loading.opcodes import DamagedError, Storage, StoredTensor
from harden.loading.rules import finding
from harden.types import Finding

_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}
"""Of ModelProto; 7 is the graph."""
_DOMAINS = ("", "ai.onnx")
_DTYPES = {1: "float32", 10: "float16", 11: "float64", 7: "int64", 6: "int32", 9: "bool", 2: "uint8", 3: "int8"}


def looks_like(data: bytes) -> bool:
    """A protobuf message whose fields are those of a model, as far as its first few go."""
    position = 0
    seen: set[int] = set()
    while position < len(data) and len(seen) < 12:
        tag, position = _varint(data, position)
        field, kind = tag >> 3, tag & 7
        if field not in _FIELDS or kind not in (0, 2):
            return False
        seen.add(field)
        value, position = _varint(data, position)
        if kind == 2:
            position += value
        if field == 7:
            return kind == 2
    return False


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 63, 7):
        if position >= len(data):
            return 0, position
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
    return value, position


def parse(data: bytes) -> Any:
    """The ModelProto; DamagedError where the bytes are none."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError, RecursionError) as error:
        raise DamagedError(f"the protobuf message is damaged: {str(error)[:100]}") from None
    if not model.graph.node:
        raise DamagedError("the graph is empty")
    return model


def read(data: bytes) -> Contents:
    """The weights by name and the operators by count; nothing outside the file is ever touched."""
    model = parse(data)
    findings: list[Finding] = []
    tree: dict[str, StoredTensor] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == 1 or tensor.external_data:
            where = next((entry.value for entry in tensor.external_data if entry.key == "location"), "?")
            message = f"{tensor.name[:120]!r} lies in {where[:120]!r}; all tensors have to be in the file itself"
            findings.append(finding("onnx-external", message, tensor.name[:120]))
            continue
        dtype, size = _DTYPES.get(tensor.data_type, "uint8"), tuple(tensor.dims)
        if any(not 0 <= n < 2**48 for n in size) or len(size) > 16:
            raise DamagedError(f"{tensor.name[:80]!r} has the shape {list(size)[:16]}")
        stored = StoredTensor(Storage(tensor.name, dtype, 0), dtype, 0, size, (0,) * len(size))
        if stored.count > len(data):
            findings.append(finding("pickle-size", f"{tensor.name[:80]!r} claims {stored.count} numbers"))
        tree[tensor.name] = stored
    foreign = Counter(f"{n.domain}:{n.op_type}" for n in model.graph.node if n.domain not in _DOMAINS)
    for name, count in foreign.most_common(20):
        findings.append(finding("onnx-operator", f"the operator {name[:120]} ({count} times)", name[:120]))
    contract: dict[str, Any] = {}
    images = input_size(model)
    if images is not None:
        contract["input_size"] = images
    operators = Counter(node.op_type for node in model.graph.node)
    remark = "operators: " + ", ".join(f"{name} {count}" for name, count in operators.most_common(12))
    return Contents("onnx", "an ONNX model", tuple(findings[:50]), tree, None, None, contract, (remark,))


def input_size(model: Any) -> tuple[int, int, int] | None:
    """Channels, height and width, where the graph fixes them."""
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    if len(inputs) != 1:
        return None
    dims = [d.dim_value for d in inputs[0].type.tensor_type.shape.dim]
    if len(dims) != 4 or not all(1 <= d <= 4096 for d in dims[1:]):
        return None
    return int(dims[1]), int(dims[2]), int(dims[3])
