"""Run a lowered ONNX file: IR segments in onnxruntime as the CPU fallback does, opaque nodes as the one ONNX node they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime

from hqc.backends.onnx import emit_segment
from hqc.frontend.onnx import LoweredOnnx
from hqc.ir import Node, Trait, Value

onnxruntime.set_default_logger_severity(3)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_lowered(lowered: LoweredOnnx, feeds: dict[str, Any]) -> list[np.ndarray]:
    """The outputs of the IR graph, in order."""
    graph = lowered.graph
    known = {value.name: np.asarray(feeds[value.name]).astype(value.type.dtype.numpy) for value in graph.inputs}
    segment: list[Node] = []
    for node in graph.nodes:
        if node.op.has(Trait.OPAQUE):
            _segment(segment, known)
            segment = []
            _opaque(lowered, node, known)
        else:
            segment.append(node)
    _segment(segment, known)
    return [value.array if value.array is not None else known[value.name] for value in graph.outputs]


def _segment(nodes: list[Node], known: dict[str, np.ndarray]) -> None:
    if not nodes:
        return
    made = {value.name for node in nodes for value in node.results}
    inputs: dict[str, Value] = {value.name: value for node in nodes for value in node.data_operands if value.name not in made}
    outputs = [value for node in nodes for value in node.results]
    results = session(emit_segment(nodes, list(inputs.values()), outputs)).run(None, {name: known[name] for name in inputs})
    for value, array in zip(outputs, results, strict=True):
        assert (array.shape, array.dtype) == (value.shape, value.type.dtype.numpy), f"{value}: got {array.shape} {array.dtype}"
        known[value.name] = array


def _opaque(lowered: LoweredOnnx, node: Node, known: dict[str, np.ndarray]) -> None:
    kept = lowered.opaque[node.attributes["id"]]
    feeds = {name: known[value.name] for name, value in zip(kept.inputs, node.operands, strict=True)}
    for value, array in zip(node.results, session(kept.model(feeds)).run(None, feeds), strict=True):
        known[value.name] = array
