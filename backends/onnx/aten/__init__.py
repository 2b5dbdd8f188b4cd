"""Standard opset-11 forms of opaque operations, written from traces of aten calls; one module per family of emitters."""

from hqc.backends.onnx.aten.calls import Call, CallGraph, Tensor
from hqc.backends.onnx.aten.writer import NoFormError, known_targets, knows, write_calls

__all__ = ["Call", "CallGraph", "NoFormError", "Tensor", "known_targets", "knows", "write_calls"]
