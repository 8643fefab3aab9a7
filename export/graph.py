"""An ONNX model in memory: what is taken out of it, put into it, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx

from harden_export.files import ExportError, Kind, OnnxFile, sha256, written_whole

PROTOBUF_LIMIT = 2**31 - 1
"""Above it a model needs a second file for its weights, which is then forgotten, or not signed."""


def write_onnx(model: onnx.ModelProto, path: Path, *, kind: Kind, opset: int | None = None) -> OnnxFile:
    """Checks a model and writes it under its final name in one step. `opset`: what it has to have."""
    came = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset is not None and came != opset:
        raise ExportError(f"opset {opset} was asked for; the exporter gave {came}.", hint=f"Ask for opset {came}.")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported file breaks the ONNX standard: {error}") from error
    with written_whole(path) as draft:
        draft.write_bytes(model.SerializeToString(deterministic=True))
    return OnnxFile(path, came, sha256(path), path.stat().st_size, kind)


def forget_origin(model: onnx.ModelProto) -> None:
    """Removes the exporter's notes. Each node carries a stack trace with absolute paths of this machine."""
    graph = model.graph
    for part in (model, graph, *model.functions):
        del part.metadata_props[:]
        part.doc_string = ""
    nodes = [*graph.node, *(node for function in model.functions for node in function.node)]
    for thing in (*nodes, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del thing.metadata_props[:]
        thing.doc_string = ""


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Puts every node after those that it reads from, as the standard demands, and otherwise keeps the order."""
    made = {name for node in graph.node for name in node.output}
    ready: set[str] = {""}
    waiting, done = list(graph.node), list[onnx.NodeProto]()
    while waiting:
        late = []
        for node in waiting:
            if all(name in ready or name not in made for name in node.input):
                done.append(node)
                ready.update(node.output)
            else:
                late.append(node)
        if len(late) == len(waiting):
            raise ExportError(f"the nodes of the graph wait for each other: {late[0].name} and {len(late) - 1} more.")
        waiting = late
    del graph.node[:]
    graph.node.extend(done)


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Replaces what the file says about itself; sorted, so that equal metadata is equal bytes."""
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))


def get_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """What the file says about itself."""
    return {entry.key: entry.value for entry in model.metadata_props}
