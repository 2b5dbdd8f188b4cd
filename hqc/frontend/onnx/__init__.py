"""The ONNX front end: ONNX files (opset 7 to 25) to the IR, without torch."""

from hqc.frontend.onnx.kept import KeptNode
from hqc.frontend.onnx.lowering import LoweredOnnx, lower_onnx
from hqc.frontend.onnx.reader import load_model, read_model
from hqc.frontend.onnx.scales import FileScales, is_quantized, take_scales

__all__ = ["FileScales", "KeptNode", "LoweredOnnx", "is_quantized", "load_model", "lower_onnx", "read_model", "take_scales"]
