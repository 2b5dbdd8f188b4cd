"""The ONNX back end: emits opset-11 models from the IR with `onnx.helper`, never through torch."""

from hqc.backends.onnx.emit import emit
from hqc.backends.onnx.flavours import FLAVOURS
from hqc.backends.onnx.segment import emit_segment

__all__ = ["FLAVOURS", "emit", "emit_segment"]
