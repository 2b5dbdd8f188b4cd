"""A CPU segment as a standalone model of standard ops: what the simulator's CPU fallback runs in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from hqc.backends.onnx.builder import Builder
from hqc.backends.onnx.opaque import OpaqueCalls
from hqc.backends.onnx.skeleton import Skeleton
from hqc.checked import checked
from hqc.ir import Node, Value


@checked
def emit_segment(
    nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value], *, opaque: OpaqueCalls | None = None
) -> onnx.ModelProto:
    """The nodes, in program order, as a model from `inputs` to `outputs`, each named as its IR value.

    Types are those of the values; parameters become initializers. `opaque`: callables of opaque nodes by id; those that are
    `Writable` are written. `ExportError` names a node that ONNX cannot hold or a value without a static shape.
    """
    return segment_skeleton(nodes, inputs, outputs, opaque=opaque).complete()


def segment_skeleton(
    nodes: Sequence[Node], inputs: Sequence[Value], outputs: Sequence[Value], *, opaque: OpaqueCalls | None = None
) -> Skeleton:
    """As `emit_segment`, with large constants beside the model."""
    builder = Builder("segment", opaque)
    builder.reserve(value.name for value in (*inputs, *outputs))
    builder.reserve(value.name for node in nodes for value in node.results)
    for value in inputs:
        builder.add_input(value)
    for node in nodes:
        builder.emit_node(node)
    for value in outputs:
        source = builder.read(value)
        name = value.name
        if any(info.name == source for info in builder.inputs) or value.is_parameter:
            # A model's output may not be its input: copy, under a name of its own, which the caller finds by position.
            name = builder.unique(f"{value.name}_output")
        builder.add_output(source, name, value.type)
    return builder.skeleton()
