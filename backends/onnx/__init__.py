"""The ONNX back end: emits opset-11 models from the IR with `onnx.helper`, never through torch."""

from hqc.backends.onnx.segment import emit_segment

__all__ = ["emit_segment"]
