"""The ONNX back end: emits opset-11 models from the IR with `onnx.helper`, never through torch."""

from hqc.backends.onnx.audit import Finding, audit
from hqc.backends.onnx.emit import emit
from hqc.backends.onnx.export import ExportReport, export
from hqc.backends.onnx.flavours import FLAVOURS
from hqc.backends.onnx.segment import emit_segment
from hqc.backends.onnx.verify import OutputComparison

__all__ = ["FLAVOURS", "ExportReport", "Finding", "OutputComparison", "audit", "emit", "emit_segment", "export"]
