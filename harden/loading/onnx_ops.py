"""ONNX operators in torch: those with weights as layers, the others as functions of their attributes and inputs.

Integers that are shapes or axes come as Python numbers and lists, everything else as tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Attributes = dict[str, Any]
_BOOL = 9
"""What Cast calls truth values."""
_FILLED = 2**26
"""Numbers that a graph may have filled in at once: position codes need a few thousand."""


class UnsupportedError(Exception):
    """A form of an operator that is not known here."""


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _pads(a: Attributes, kernel: int = 2) -> list[int]:
    """Begin and end for each axis; symmetric ones only need the first half."""
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedError(f"auto_pad = {a['auto_pad']}")
    return list(a.get("pads", [0] * 2 * kernel))


def _conv(a: Attributes, weight: Any, bias: Any = None) -> nn.Module:
    if weight.ndim != 4:
        raise UnsupportedError(f"a convolution over {weight.ndim - 2} axes")
    top, left, bottom, right = _pads(a)
    even = (top, left) == (bottom, right)
    group = a.get("group", 1)
    conv = nn.Conv2d(
        weight.shape[1] * group, weight.shape[0], tuple(weight.shape[2:]), tuple(a.get("strides", (1, 1))),
        (top, left) if even else 0, tuple(a.get("dilations", (1, 1))), group, bias=bias is not None,
    )  # fmt: skip
    conv.weight.data = _tensor(weight)
    if bias is not None and conv.bias is not None:
        conv.bias.data = _tensor(bias)
    return conv if even else nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), conv)


def _batch_norm(a: Attributes, scale: Any, shift: Any, mean: Any, variance: Any) -> nn.Module:
    norm = nn.BatchNorm2d(len(scale), eps=a.get("epsilon", 1e-5))
    norm.weight.data, norm.bias.data = _tensor(scale), _tensor(shift)
    norm.running_mean, norm.running_var = _tensor(mean), _tensor(variance)
    return norm


def _gemm(a: Attributes, weight: Any, bias: Any = None) -> nn.Module:
    if a.get("transA") or a.get("alpha", 1.0) != 1 or a.get("beta", 1.0) != 1:
        raise UnsupportedError("a scaled or transposed product")
    return _linear(weight if a.get("transB") else weight.T, bias)


def _matmul(_: Attributes, weight: Any) -> nn.Module | None:
    return _linear(weight.T, None) if weight.ndim == 2 else None


def _linear(weight: Any, bias: Any) -> nn.Module:
    if bias is not None and bias.shape != (weight.shape[0],):
        raise UnsupportedError(f"a bias of shape {bias.shape}")
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.weight.data = _tensor(weight)
    if bias is not None:
        linear.bias.data = _tensor(bias)
    return linear


LAYERS: dict[str, Callable[..., nn.Module | None]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    top, left, bottom, right = _pads(a)
    x = F.pad(x, (left, right, top, bottom), value=-math.inf) if any((top, left, bottom, right)) else x
    return F.max_pool2d(
        x, a["kernel_shape"], a.get("strides", [1, 1]), 0, a.get("dilations", [1, 1]), bool(a.get("ceil_mode"))
    )


def _avg_pool(a: Attributes, x: Tensor) -> Tensor:
    top, left, bottom, right = _pads(a)
    if (top, left) != (bottom, right):
        raise UnsupportedError("averages with uneven padding")
    include = bool(a.get("count_include_pad", 0))
    return F.avg_pool2d(x, a["kernel_shape"], a.get("strides", [1, 1]), (top, left), bool(a.get("ceil_mode")), include)


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(a: Attributes, x: Tensor, axes: Any = None) -> Tensor:
        chosen = axes if axes is not None else a.get("axes")
        return function(x, dim=tuple(chosen) if chosen else tuple(range(x.dim())), keepdim=bool(a.get("keepdims", 1)))

    return reduce


def _reshape(a: Attributes, x: Any, shape: list[Any]) -> Any:
    if isinstance(x, list):
        return x
    return x.reshape([x.shape[i] if n == 0 and not a.get("allowzero") else n for i, n in enumerate(shape)])


def _flatten(a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", 1)
    return x.flatten(axis) if axis == 1 else x.reshape(math.prod(x.shape[:axis]), -1)


def _squeeze(a: Attributes, x: Any, axes: Any = None) -> Any:
    if isinstance(x, list):
        return x[0] if len(x) == 1 else x
    chosen = axes if axes is not None else a.get("axes")
    return x.squeeze(tuple(chosen)) if chosen else x.squeeze()


def _unsqueeze(a: Attributes, x: Any, axes: Any = None) -> Any:
    if not isinstance(x, Tensor):
        return x if isinstance(x, list) else [x]
    for axis in sorted(axes if axes is not None else a["axes"]):
        x = x.unsqueeze(axis)
    return x


def _concat(a: Attributes, *parts: Any) -> Any:
    if isinstance(parts[0], Tensor):
        return torch.cat(parts, a["axis"])
    return [n for part in parts for n in (part if isinstance(part, list) else [part])]


def _shape(a: Attributes, x: Tensor) -> list[Any]:
    return list(x.shape)[a.get("start", 0) : a.get("end", x.dim())]


def _gather(a: Attributes, x: Any, index: Any) -> Any:
    if isinstance(x, list):
        return [x[i] for i in index] if isinstance(index, list) else x[index]
    axis = a.get("axis", 0) % x.dim()
    if isinstance(index, list):
        rows = torch.tensor(index, device=x.device)
        return x.index_select(axis, rows.flatten()).reshape(*x.shape[:axis], *rows.shape, *x.shape[axis + 1 :])
    return x.select(axis, index)


def _expand(_: Attributes, x: Tensor, shape: list[int]) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape)))


def _slice(_: Attributes, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    if isinstance(x, list):
        return x[starts[0] : ends[0] : (steps or [1])[0]]
    axes = axes if axes is not None else range(len(starts))
    steps = steps or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 1:
            raise UnsupportedError("a slice that runs backwards")
        x = x[(slice(None),) * (axis % x.dim()) + (slice(start, None if end >= 2**31 else end, step),)]
    return x


def _split(a: Attributes, x: Tensor, sizes: Any = None) -> tuple[Tensor, ...]:
    axis = a.get("axis", 0)
    chosen = sizes if sizes is not None else a.get("split")
    return x.split(chosen, axis) if chosen else x.chunk(a["num_outputs"], axis)


def _pad(a: Attributes, x: Tensor, pads: Any = None, value: Any = None, axes: Any = None) -> Tensor:
    if a.get("mode", "constant") not in ("constant", "reflect") or axes is not None:
        raise UnsupportedError(f"padding by {a.get('mode')}")
    pads = pads if pads is not None else a["pads"]
    half = len(pads) // 2
    flat = [n for axis in reversed(range(half)) for n in (pads[axis], pads[axis + half])]
    return F.pad(x, flat, a.get("mode", "constant"), float(value) if value is not None else 0.0)


def _clip(a: Attributes, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    low = a.get("min") if low is None else float(low)
    high = a.get("max") if high is None else float(high)
    return x.clamp(low, high)


def _binary(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def apply(_: Attributes, x: Any, y: Any) -> Any:
        if isinstance(x, list) and isinstance(y, list):
            return [function(p, q) for p, q in zip(x, y, strict=True)]
        if isinstance(x, list) and not isinstance(y, Tensor):
            return [function(p, y) for p in x]
        return function(torch.tensor(x) if isinstance(x, list) else x, torch.tensor(y) if isinstance(y, list) else y)

    return apply


def _cast(a: Attributes, x: Any) -> Any:
    """Numbers keep the precision that the network runs in; only truth values are something else."""
    if not isinstance(x, Tensor):
        return x
    if a["to"] == _BOOL:
        return x.bool()
    return x.float() if x.dtype == torch.bool else x


def _constant_of_shape(a: Attributes, shape: list[int]) -> Any:
    """A row of integers is a shape in the making, everything else a tensor (moved to the images by the network)."""
    value = (a.get("value") or [0.0])[0]
    if all(type(n) is int for n in shape) and math.prod(shape) > _FILLED:  # an exporter's symbols have no size yet
        raise UnsupportedError(f"a constant of the shape {shape}")
    if type(value) is int and len(shape) == 1:
        return [value] * shape[0]
    return torch.full(shape, value, dtype=torch.bool if type(value) is bool else torch.float32)


def _cumsum(a: Attributes, x: Tensor, axis: Any) -> Tensor:
    axis = axis[0] if isinstance(axis, list) else axis
    x = x.flip(axis) if a.get("reverse") else x
    total = x.cumsum(axis) - x if a.get("exclusive") else x.cumsum(axis)
    return total.flip(axis) if a.get("reverse") else total


def _not(_: Attributes, x: Any) -> Any:
    if isinstance(x, list):
        return [not part for part in x]
    return x.logical_not() if isinstance(x, Tensor) else not x


def _layer_norm(a: Attributes, x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    axis = a.get("axis", -1) % x.dim()
    return F.layer_norm(x, x.shape[axis:], scale, shift, a.get("epsilon", 1e-5))


OPERATORS: dict[str, Callable[..., Any]] = {
    "Relu": lambda _, x: F.relu(x),
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "PRelu": lambda _, x, slope: torch.where(x >= 0, x, x * slope),
    "Elu": lambda a, x: F.elu(x, a.get("alpha", 1.0)),
    "Selu": lambda _, x: F.selu(x),
    "Sigmoid": lambda _, x: torch.sigmoid(x),
    "HardSigmoid": lambda a, x: (x * a.get("alpha", 0.2) + a.get("beta", 0.5)).clamp(0, 1),
    "HardSwish": lambda _, x: F.hardswish(x),
    "Tanh": lambda _, x: torch.tanh(x),
    "Softplus": lambda _, x: F.softplus(x),
    "Mish": lambda _, x: F.mish(x),
    "Gelu": lambda a, x: F.gelu(x, approximate=a.get("approximate", "none")),
    "Erf": lambda _, x: torch.erf(x),
    "Exp": lambda _, x: torch.exp(x),
    "Sqrt": lambda _, x: torch.sqrt(x),
    "Reciprocal": lambda _, x: 1 / x,
    "Sin": lambda _, x: torch.sin(x),
    "Cos": lambda _, x: torch.cos(x),
    "Abs": lambda _, x: x.abs(),
    "Neg": lambda _, x: -x,
    "Clip": _clip,
    "Softmax": lambda a, x: F.softmax(x, a.get("axis", -1)),
    "LogSoftmax": lambda a, x: F.log_softmax(x, a.get("axis", -1)),
    "MaxPool": _max_pool,
    "AveragePool": _avg_pool,
    "GlobalAveragePool": lambda _, x: x.mean((2, 3), keepdim=True),
    "GlobalMaxPool": lambda _, x: x.amax((2, 3), keepdim=True),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "ReduceMax": _reduce(torch.amax),
    "ReduceL2": _reduce(torch.linalg.vector_norm),
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": lambda a, x: x.permute(a.get("perm", list(reversed(range(x.dim()))))),
    "Concat": _concat,
    "Shape": _shape,
    "Gather": _gather,
    "Expand": _expand,
    "Slice": _slice,
    "Split": _split,
    "Pad": _pad,
    "Add": _binary(lambda x, y: x + y),
    "Sub": _binary(lambda x, y: x - y),
    "Mul": _binary(lambda x, y: x * y),
    "Div": _binary(lambda x, y: x // y if isinstance(x, int) and isinstance(y, int) else x / y),
    "Pow": _binary(lambda x, y: x**y),
    "MatMul": lambda _, x, y: x @ y,
    "LayerNormalization": _layer_norm,
    "CumSum": _cumsum,
    "ConstantOfShape": _constant_of_shape,
    "Not": _not,
    "Cast": _cast,
    "Identity": lambda _, x: x,
    "Dropout": lambda _, x, *__: x,
}
