"""From a torch module to the file that ships: ONNX, proven equal, smaller, faster, and saying where it came from.

Knows torch and ONNX and nothing else. Its parts are imported by name, because only some of them need torch:

    onnx_file   a module becomes one .onnx file; a .pt2 program beside it      (torch)
    runtime     an .onnx file becomes a function from images to logits         (no torch)
    parity      how far that function is from the module it came from          (no torch)
    quantize    fp16 and int8, or the reason why not                           (no torch)
    latency     which of several files is how much faster                      (no torch; MACs of a module: torch)
    bundle      where the file came from: metadata, ML-BOM, statement, signature, infer.py   (no torch)
"""
