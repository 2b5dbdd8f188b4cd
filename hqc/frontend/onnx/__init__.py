"""The ONNX front end: ONNX files (opset 7 to 25) to the IR, without torch."""

from hqc.frontend.onnx.kept import KeptNode
from hqc.frontend.onnx.lowering import LoweredOnnx, lower_onnx
from hqc.frontend.onnx.reader import read_model

__all__ = ["KeptNode", "LoweredOnnx", "lower_onnx", "read_model"]
