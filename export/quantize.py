"""Smaller kinds of a file: fp16 for GPUs, int8 for CPUs, or the honest reason why not.

int8: weights and activations become 8-bit numbers, with scales taken from images that were given for it.

    s(n)     how far the logits move when node n alone is quantised: mean |a - b| over some of those images
    keep     the nodes of largest s stay float, 0, 1, 2, 4, ... of them, until accuracy(fp32) - accuracy(int8) <= budget

The file is only given out if it is then faster than the float one on this machine. Quantisation may wake a backdoor
that slept in the float file, so whoever ships it has to measure it as a model of its own.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from harden_export.files import ExportError, Kind, OnnxFile
from harden_export.graph import forget_origin, get_metadata, set_metadata, sort_nodes, write_onnx
from harden_export.latency import Latency, measure_latency
from harden_export.runtime import OnnxModel

Evaluate = Callable[[Path], float]
"""Accuracy in [0, 1] of a file, on images that are neither calibrated with nor reported on."""

PROBES = 64
"""Images on which the sensitivity of a node is measured."""
COSTLY = ("Conv", "Gemm", "MatMul")
"""What can be kept float: everything else follows its neighbours."""


@dataclass(frozen=True)
class Quantized:
    """An int8 file, and what it cost."""

    file: OnnxFile
    kept_float: tuple[str, ...]
    """Nodes that were too sensitive."""
    accuracy_before: float
    accuracy: float
    latency: tuple[Latency, ...]
    """Against the float file, one thread."""


@dataclass(frozen=True)
class NotWorthIt:
    """Why no file of that kind was written."""

    kind: Kind
    reason: str
    accuracy_before: float
    accuracy: float
    """Of the best attempt."""
    latency: tuple[Latency, ...] = ()


def to_fp16(source: OnnxFile, path: Path) -> OnnxFile:
    """Half precision inside, float32 at both ends. Half the size; faster on GPUs, no faster on CPUs."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # 0.5 s

    model = onnx.load(source.path)
    metadata = get_metadata(model)
    with _quiet():
        try:
            half = convert_float_to_float16(model, keep_io_types=True)
        except Exception as error:  # the converter raises bare ValueErrors and KeyErrors on graphs it does not know
            raise ExportError(f"{source.path} cannot be converted to fp16: {error}") from error
    sort_nodes(half.graph)  # the converter appends its casts at the end
    forget_origin(half)
    set_metadata(half, metadata | {"kind": "fp16"})
    return write_onnx(half, path, kind="fp16")


def to_int8(
    source: OnnxFile,
    path: Path,
    *,
    calibration: NDArray[Any],
    evaluate: Evaluate,
    max_drop: float = 0.01,
    must_be_faster: bool = True,
    seconds: float = 2.0,
    provider: str = "cpu",
) -> Quantized | NotWorthIt:
    """Static int8 within an accuracy budget. `seconds` bounds the latency measurement, a batch size each.

    It has to be faster at one batch size and slower at none. Where it need not be faster, nothing is timed.
    """
    before = evaluate(source.path)
    with TemporaryDirectory() as folder:
        workshop = _Workshop(source, calibration, Path(folder))
        kept: tuple[str, ...] = ()
        best = accuracy = evaluate(workshop.quantize())
        if before - accuracy > max_drop:
            ranked = workshop.most_sensitive_first()
            count = 1
            while before - accuracy > max_drop and count <= len(ranked) // 2:
                kept = ranked[:count]
                accuracy = evaluate(workshop.quantize(excluded=kept))
                best = max(best, accuracy)
                count *= 2
        if before - accuracy > max_drop:
            return NotWorthIt(
                "int8",
                f"accuracy falls by {100 * (before - best):.1f} points, {100 * max_drop:.1f} are allowed, "
                f"with up to {len(kept)} of {len(workshop.nodes)} layers kept in float",
                before,
                best,
            )
        draft = workshop.quantize(excluded=kept)
        latency: tuple[Latency, ...] = ()
        if must_be_faster:
            files = {"fp32": source.path, "int8": draft}
            latency = measure_latency(files, threads=(1,), seconds=seconds, provider=provider)
        timings = [timing for timing in latency if timing.name == "int8"]
        worth = any(timing.faster for timing in timings) and not any(timing.slower for timing in timings)
        if must_be_faster and not worth:
            figures = ", ".join(
                f"{t.speedup:.2f} times as fast at batch {t.batch} ({t.speedup_low:.2f} to {t.speedup_high:.2f})"
                for t in timings
            )
            return NotWorthIt("int8", f"not faster, or slower, on this machine: {figures}", before, accuracy, latency)
        model = onnx.load(draft)
        forget_origin(model)
        set_metadata(model, get_metadata(onnx.load(source.path)) | {"kind": "int8"})
        return Quantized(write_onnx(model, path, kind="int8"), kept, before, accuracy, latency)


class _Workshop:
    """One float model, calibrated once, quantised as often as needed."""

    def __init__(self, source: OnnxFile, calibration: NDArray[Any], folder: Path) -> None:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        if len(calibration) == 0:
            raise ExportError("int8 needs images to take its scales from; 0 came.")
        self.folder = folder
        self.prepared = folder / "prepared.onnx"
        with _quiet():
            # The exporter has folded and simplified what there is; what is needed are the shapes.
            quant_pre_process(source.path, self.prepared, skip_optimization=True, skip_symbolic_shape=True)
        self.images = calibration
        self.input_name = OnnxModel(source.path, threads=1).input_name
        graph = onnx.load(self.prepared).graph
        self.nodes = tuple(node.name for node in graph.node if node.op_type in COSTLY)

    def quantize(self, *, excluded: Sequence[str] = (), only: Sequence[str] | None = None) -> Path:
        """A draft in which these nodes stay float, or all but some do."""
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        draft = self.folder / "draft.onnx"
        with _quiet():
            quantize_static(
                self.prepared,
                draft,
                _Reader(self.input_name, self.images),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,  # without VNNI, two products of full 8-bit weights overflow their 16-bit sum
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=list(only) if only is not None else None,
                nodes_to_exclude=list(excluded),
                calibration_cache_path=self.folder / "ranges.json",
            )
        return draft

    def most_sensitive_first(self) -> tuple[str, ...]:
        """The costly nodes by how far each alone moves the logits."""
        probes = self.images[:PROBES]
        straight = OnnxModel(self.prepared).batched(probes)  # (N, K)
        moved = {
            node: float(np.abs(OnnxModel(self.quantize(only=[node])).batched(probes) - straight).mean())
            for node in self.nodes
        }
        return tuple(sorted(self.nodes, key=lambda node: -moved[node]))


class _Reader:
    """Images in the portions that ONNX Runtime's calibration asks for."""

    def __init__(self, input_name: str, images: NDArray[Any], portion: int = 16) -> None:
        self._feeds = iter([{input_name: images[i : i + portion]} for i in range(0, len(images), portion)])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next portion; None at the end."""
        return next(self._feeds, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser prints to stdout, which may be carrying JSON, and logs advice about itself."""
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
