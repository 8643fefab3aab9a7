"""From a torch module to the file that ships: ONNX, proven equal, smaller, faster, and saying where it came from.

Knows torch and ONNX and nothing else. Its parts are imported by name, because only some of them need torch:

    onnx_file   a module becomes one .onnx file, or a .pt2 program                             (torch)
    candidate   how fast and how big a module would be, were it the file                       (torch)
    runtime     an .onnx file becomes a function from images to logits
    parity      how far that function is from the module it came from
    quantize    fp16 and int8, or the reason why not
    latency     which of several files is how much faster
    facts       what a file weighs: bytes, parameters, multiplications
    bundle      where it came from: metadata, ML-BOM, test statement, signature, infer.py
"""
