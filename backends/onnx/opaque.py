"""Opaque operations in a file: the standard-opset form that their callable offers, spliced in place.

`opaque` maps an operation's id to a callable on NumPy arrays. One that also has the methods of `Writable` can be written: the
workflow's callables trace the operation and check its form in onnxruntime. This back end knows neither torch nor the trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import onnx

from hqc.errors import ExportError
from hqc.ir import Node, Trait

OpaqueCalls = Mapping[str, Callable[..., Any]]


@runtime_checkable
class Writable(Protocol):
    """What an opaque operation's callable offers besides running."""

    def form(self, node: Node) -> onnx.ModelProto:
        """The operation as a model of standard ops for the operands of `node`; its inputs are the node's
        operands, in order. `ExportError` with one sentence when there is none."""


def form_of(node: Node, opaque: OpaqueCalls) -> onnx.ModelProto:
    """The standard-opset form of an opaque node; `ExportError` names the node, its source line and why there is none."""
    identity = str(node.attributes["id"])
    call = opaque.get(identity)
    if not isinstance(call, Writable):
        raise refusal(node, "only the framework that the model comes from can run it")
    return call.form(node)


def refusal(node: Node, reason: str) -> ExportError:
    """The one sentence about an operation that no file can hold; explain, prepare and export all say it."""
    return ExportError(
        f"{node.label}: {node.attributes['id']} cannot be written to ONNX: {reason}; rewrite it with standard operations, or cut "
        "the model before it and run the rest outside the exported file"
    )


def unwritable(node: Node, opaque: OpaqueCalls) -> str:
    """Why the node has no form, as export will say it; "" when it has one, or is not opaque at all."""
    if not node.op.has(Trait.OPAQUE):
        return ""
    try:
        form_of(node, opaque)
    except ExportError as error:
        return str(error)
    return ""
