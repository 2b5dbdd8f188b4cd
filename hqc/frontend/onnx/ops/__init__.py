"""Lowerings of ONNX operators, one file a family; each registers itself."""
