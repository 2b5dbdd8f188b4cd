"""Opaque operations in a file: the standard-opset form that their callable offers, spliced in place.

`opaque` maps an operation's id to a callable on NumPy arrays. One that also has the methods of `Writable` can be written: the
workflow's callables trace the operation and check its form in onnxruntime. This back end knows neither torch nor the trace.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import onnx

from hqc.errors import ExportError
from hqc.ir import Node

OpaqueCalls = Mapping[str, Callable[..., Any]]


@runtime_checkable
class Writable(Protocol):
    """What an opaque operation's callable offers besides running."""

    def form(self, node: Node) -> onnx.ModelProto:
        """The operation as a model of standard ops for the operands of `node`; its inputs are the node's
        operands that are not parameters, in order. `ExportError` with one sentence when there is none."""


def form_of(node: Node, opaque: OpaqueCalls) -> onnx.ModelProto:
    """The standard-opset form of an opaque node; `ExportError` names the node, its source line and why there is none."""
    identity = str(node.attributes["id"])
    call: Any = opaque.get(identity)
    if not isinstance(call, Writable):
        raise refusal(node, "its callable offers no form in standard operations")
    return call.form(node)


def refusal(node: Node, reason: str) -> ExportError:
    """The one sentence about an operation that no file can hold; explain, prepare and export all say it."""
    return ExportError(
        f"{node.label}: {node.attributes['id']} cannot be written to ONNX: {reason}; rewrite it with standard operations, or cut "
        "the model before it and run the rest outside the exported file"
    )


def multiply_accumulates(model: onnx.ModelProto) -> int:
    """Of the products, convolutions and recurrent layers of a form, whose values all have types."""
    graph = model.graph
    typed = (*graph.input, *graph.value_info, *graph.output)
    shapes = {info.name: [d.dim_value for d in info.type.tensor_type.shape.dim] for info in typed}
    shapes.update({tensor.name: list(tensor.dims) for tensor in graph.initializer})
    return sum(_node_macs(node, shapes) for node in graph.node)


def _node_macs(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> int:
    if node.op_type in ("Conv", "ConvTranspose"):
        positions = node.output[0] if node.op_type == "Conv" else node.input[0]
        return math.prod(shapes.get(positions, [0])) * math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("MatMul", "Gemm"):
        return math.prod(shapes.get(node.output[0], [0])) * shapes.get(node.input[0], [0])[-1]
    if node.op_type in ("LSTM", "GRU", "RNN"):
        steps, batch = shapes.get(node.input[0], [0, 0])[:2]
        return steps * batch * (math.prod(shapes[node.input[1]]) + math.prod(shapes[node.input[2]]))
    return 0
