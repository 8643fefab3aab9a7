"""Classifies images with the model.onnx beside this script: python infer.py IMAGE ...

Needs onnxruntime, pillow and numpy. What to do with the pixels stands in the model's own metadata.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
classes = json.loads(about["classes"])
channels, height, width = json.loads(about["input_size"])
mean, std = (np.array(json.loads(about[key]), np.float32) for key in ("mean", "std"))

for path in sys.argv[1:]:
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened).convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image).reshape(1, height, width, channels)
    if session.get_inputs()[0].type != "tensor(uint8)":  # else the preprocessing is inside the model
        pixels = ((pixels.astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)
    (logits,) = session.run(None, {session.get_inputs()[0].name: pixels})
    odds = np.exp(logits[0] - logits[0].max())
    best = int(odds.argmax())
    print(f"{path}\t{classes[best]}\t{odds[best] / odds.sum():.4f}")
