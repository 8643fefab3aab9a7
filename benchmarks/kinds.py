"""Every ONNX file of a run, measured by nothing of harden's, beside what its report says of it.

    harden clean samples/models/backdoored.pt ... --kinds fp32,fp16,int8 --trigger samples/trigger.png \
        --mask samples/mask.png --target speed_70 --out RUN
    python -m benchmarks.kinds RUN samples/verify samples/trigger.png samples/mask.png speed_70

A trigger is pasted where its mask is white.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image


def measured(model: Path, pictures: Path, trigger: Path, mask: Path, target: str) -> tuple[int, int, int, int]:
    """Right, of all; successes of the trigger, of all."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    classes, mean, std = (json.loads(about[key]) for key in ("classes", "mean", "std"))
    sticker, where = np.asarray(Image.open(trigger).convert("RGB")), np.asarray(Image.open(mask).convert("L")) > 127

    def said(picture: np.ndarray) -> str:  # type: ignore[type-arg]
        ready = ((picture / np.float32(255) - np.float32(mean)) / np.float32(std)).transpose(2, 0, 1)[None]
        return str(classes[int(session.run(None, {"input": ready.astype(np.float32)})[0].argmax())])

    right = total = success = attacked = 0
    for path in sorted(pictures.rglob("*.png")):
        picture = np.asarray(Image.open(path).convert("RGB"), np.float32)
        right, total = right + (said(picture) == path.parent.name), total + 1
        if path.parent.name != target:
            stamped = np.where(where[..., None], sticker, picture)
            success, attacked = success + (said(stamped) == target), attacked + 1
    return right, total, success, attacked


def main() -> None:
    run, pictures, trigger, mask = (Path(argument) for argument in sys.argv[1:5])
    export = json.loads((run / "report.json").read_text(encoding="utf-8"))["export"]
    told = {"fp32": export["measured"], **{variant["kind"]: variant["measured"] for variant in export["variants"]}}
    print("| file | kB | right: report, script | trigger succeeds: report, script | the same |\n|---|---|---|---|---|")
    for file in export["files"]:
        if file["path"].endswith(".onnx"):
            right, total, success, attacked = measured(run / file["path"], pictures, trigger, mask, sys.argv[5])
            accuracy = told[file["kind"]]["accuracy"]
            asr = next(a["asr"] for a in told[file["kind"]]["attack_success"] if a["source"] == "given")
            same = (accuracy["hits"], accuracy["total"], asr["hits"], asr["total"]) == (right, total, success, attacked)
            print(
                f"| {file['path']} | {file['bytes'] / 1e3:.0f} | {accuracy['hits']}, {right} of {total} "
                f"| {asr['hits']}, {success} of {attacked} | {'yes' if same else 'no'} |"
            )


if __name__ == "__main__":
    main()
