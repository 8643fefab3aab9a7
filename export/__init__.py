"""What ships: ONNX files, and proof that they say what the network says. Knows nothing of backdoors."""
