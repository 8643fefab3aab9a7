"""An ONNX file becomes a function from images to logits, on the execution provider that was named.

Torch is not imported here: whoever only wants to run the file that ships does not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from harden_export.files import ExportError

Logits = NDArray[np.float32]
Function = Callable[[NDArray[Any]], Logits]


@dataclass(frozen=True)
class Provider:
    """Something ONNX Runtime can run a model on."""

    name: str
    """As on the command line."""
    onnx_name: str
    package: str
    """What to install to get it."""
    available: bool


_KNOWN = (
    ("cpu", "CPUExecutionProvider", "onnxruntime"),
    ("cuda", "CUDAExecutionProvider", "onnxruntime-gpu"),
    ("tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu, and NVIDIA TensorRT"),
    ("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino"),
    ("coreml", "CoreMLExecutionProvider", "onnxruntime, on macOS"),
    ("directml", "DmlExecutionProvider", "onnxruntime-directml, on Windows"),
    ("migraphx", "MIGraphXExecutionProvider", "onnxruntime-migraphx"),
    ("qnn", "QNNExecutionProvider", "onnxruntime-qnn"),
)


def providers() -> tuple[Provider, ...]:
    """Every provider known by name, and whether the installed ONNX Runtime has it."""
    here = set(ort.get_available_providers())
    return tuple(Provider(name, onnx_name, package, onnx_name in here) for name, onnx_name, package in _KNOWN)


def provider(name: str) -> Provider:
    """The provider of that name, or why it cannot be used."""
    found = {p.name: p for p in providers()}
    if name not in found:
        raise ExportError(f"no execution provider is called {name!r}.", hint=f"Known: {', '.join(found)}.")
    if not found[name].available:
        here = ", ".join(p.name for p in found.values() if p.available)
        raise ExportError(
            f"the installed ONNX Runtime has no provider {name!r}; it has: {here}.",
            hint=f"Install {found[name].package} (in place of onnxruntime: two of them hide each other).",
        )
    return found[name]


class OnnxModel:
    """A session, called like a function: images (N, ...) in, logits (N, classes) out."""

    def __init__(self, path: Path, provider: str = "cpu", threads: int = 0) -> None:
        """`threads`: 0 leaves it to ONNX Runtime, which takes one per physical core."""
        chosen = _provider(provider)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only: a warning about a node's placement is not the user's
        # Threads that go on spinning after a run would steal the core from whoever is measured next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        names = [chosen.onnx_name] + (["CPUExecutionProvider"] if chosen.name != "cpu" else [])
        try:
            self.session = ort.InferenceSession(Path(path).read_bytes(), options, providers=names)
        except OSError as error:
            raise ExportError(f"{path} cannot be read: {error.strerror}.") from error
        except Exception as error:  # ONNX Runtime's own classes derive from Exception directly
            raise ExportError(f"{path} cannot be run by ONNX Runtime: {_first_line(error)}") from error
        if chosen.onnx_name not in self.session.get_providers():  # it falls back to the CPU and only logs it
            raise ExportError(
                f"ONNX Runtime could not start the provider {provider!r} and would have used the CPU instead.",
                hint="Its libraries are missing or too old: the log on stderr names the first one.",
            )
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        if len(inputs) != 1:
            raise ExportError(f"an image classifier has one input; {path} has {len(inputs)}.")
        self.path = Path(path)
        self.provider = provider
        self.threads = threads
        self.input_name: str = inputs[0].name
        self.input_shape: tuple[int | str | None, ...] = tuple(inputs[0].shape)
        self.output_shape: tuple[int | str | None, ...] = tuple(outputs[0].shape)
        self.input_type = _NUMPY.get(inputs[0].type)
        if self.input_type is None:
            raise ExportError(f"an image classifier takes numbers; the input of {path} is {inputs[0].type}.")
        self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
        self._output: str = outputs[0].name

    def __call__(self, images: NDArray[Any]) -> Logits:
        """Logits of a batch; a file made for a fixed batch gets the images in portions of it."""
        fixed = self.input_shape[0]
        if isinstance(fixed, int) and len(images) != fixed:
            missing = -len(images) % fixed
            padded = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
            parts = [self._run(padded[i : i + fixed]) for i in range(0, len(padded), fixed)]
            return np.concatenate(parts)[: len(images)]
        return self._run(images)

    def _run(self, images: NDArray[Any]) -> Logits:
        wanted = images.astype(self.input_type, copy=False)
        try:
            (logits,) = self.session.run([self._output], {self.input_name: wanted})
        except Exception as error:
            raise ExportError(
                f"{self.path} cannot be run on images of shape {images.shape}: {_first_line(error)}",
                hint=f"It takes {self.input_shape}.",
            ) from error
        return np.asarray(logits, dtype=np.float32)

    def batched(self, images: NDArray[Any], size: int = 64) -> Logits:
        """Logits of any number of images, so many at a time."""
        return np.concatenate([self(images[i : i + size]) for i in range(0, len(images), size)])


_provider = provider  # OnnxModel's argument has the same name
_NUMPY: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
