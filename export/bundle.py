"""What lies inside and beside the model, so that whoever receives it can use it and knows where it came from.

contract_metadata   what goes in and what comes out, inside the file         infer.py and any runtime read it
annotate            more of the same, once figures have been measured
ml_bom              CycloneDX 1.6 with a model card                           mlbom.py
result_statement         in-toto statement of what was tested                      attestation.py
sign_folder         OpenSSF model signature over all of it                    signing.py
write_infer         infer.py, which classifies an image with the shipped file
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from harden_export.attestation import result_statement
from harden_export.files import ExportError, OnnxFile, written_whole
from harden_export.graph import get_metadata, set_metadata, write_onnx
from harden_export.mlbom import Ancestor, Dataset, Metric, Software, ml_bom
from harden_export.signing import SIGNATURE, TamperedError, sign_folder, verify_folder

__all__ = [
    "SIGNATURE",
    "Ancestor",
    "Dataset",
    "Metric",
    "Software",
    "TamperedError",
    "annotate",
    "contract_metadata",
    "ml_bom",
    "result_statement",
    "sign_folder",
    "verify_folder",
    "write_infer",
]


def contract_metadata(
    *, classes: Sequence[str], input_size: tuple[int, int, int], mean: Sequence[float], std: Sequence[float]
) -> dict[str, str]:
    """What a runtime has to know, each value as JSON, under the names of the contract file."""
    return {
        "classes": json.dumps(list(classes), ensure_ascii=False),
        "input_size": json.dumps(list(input_size)),
        "mean": json.dumps(list(mean)),
        "std": json.dumps(list(std)),
    }


def annotate(file: OnnxFile, metadata: Mapping[str, str]) -> OnnxFile:
    """Adds to what the file says about itself. Only its digest changes; graph and weights do not."""
    model = onnx.load(file.path)
    set_metadata(model, {**get_metadata(model), **metadata})
    return replace(write_onnx(model, file.path, kind=file.kind), opset=file.opset)


def write_infer(folder: Path) -> Path:
    """Puts infer.py beside the model.onnx of this folder."""
    model = folder / "model.onnx"
    about = get_metadata(onnx.load(model, load_external_data=False)) if model.is_file() else {}
    missing = [key for key in ("classes", "input_size", "mean", "std") if key not in about]
    if missing:
        raise ExportError(f"infer.py reads {', '.join(missing)} from the metadata of {model}, which has none of it.")
    path = folder / "infer.py"
    with written_whole(path) as draft:
        draft.write_bytes(Path(__file__).with_name("infer.py").read_bytes())
    return path
