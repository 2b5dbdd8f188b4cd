"""Standard opset-11 forms of opaque operations, written from traces of aten calls; one module per family of emitters."""

from hqc.backends.onnx.aten.calls import Call, CallGraph, Tensor
from hqc.backends.onnx.aten.writer import NoEmitter, known_targets, knows, write_calls

__all__ = ["Call", "CallGraph", "NoEmitter", "Tensor", "known_targets", "knows", "write_calls"]
