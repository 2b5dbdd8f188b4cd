"""Opaque operations: the standard-opset form that their callable offers, spliced in place."""

from __future__ import annotations

from hqc.backends.onnx.builder import Builder
from hqc.backends.onnx.opaque import form_of
from hqc.backends.onnx.registry import emitter
from hqc.ir import Node


@emitter("opaque")
def opaque(node: Node, b: Builder) -> list[str]:
    return b.splice(form_of(node, b.opaque), [b.read(value) for value in node.operands if not value.is_parameter])
