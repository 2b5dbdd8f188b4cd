"""Runs a lowered model: standard ops in onnxruntime, opaque calls through their callables; compares with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from hqc.backends.onnx import emit_segment
from hqc.frontend.fx import LoweredModel, OutputRef, lower_graph_module, trace
from hqc.ir import Graph, Node, Trait, Value
from hqc.structures import map_structure


class Function(nn.Module):
    """A function of tensors as a model."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


class Function2(Function):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.function(x, y)


def lower_model(model: nn.Module, *inputs: Any) -> LoweredModel:
    return lower_graph_module(trace(model, inputs or None), inputs or None)


def lowered_ops(model: nn.Module, *inputs: Any) -> list[str]:
    """Names of the IR ops, in program order."""
    return [node.op.name for node in lower_model(model, *inputs).graph.nodes]


def run_graph(lowered: LoweredModel, feeds: dict[str, np.ndarray[Any, Any]]) -> Any:
    """The model's result, as torch would return it, in NumPy arrays."""
    graph = lowered.graph
    known = dict(feeds)
    segment: list[Node] = []
    for node in graph.nodes:
        if node.op.has(Trait.OPAQUE):
            _run_segment(graph, segment, known)
            segment = []
            operands = [known[v.name] if v.array is None else v.array for v in node.operands]
            result = lowered.opaque[node.attributes["id"]](*operands)
            results = result if isinstance(result, tuple) else (result,)
            for value, array in zip(node.results, results, strict=True):
                assert (array.shape, array.dtype) == (value.shape, value.type.dtype.numpy)
                known[value.name] = array
        else:
            segment.append(node)
    _run_segment(graph, segment, known)

    def fetch(item: Any) -> Any:
        if not isinstance(item, OutputRef):
            return item
        value = graph.outputs[item.index]
        return value.array if value.array is not None else known[value.name]

    return map_structure(lowered.outputs, fetch)


def _run_segment(graph: Graph, nodes: list[Node], known: dict[str, np.ndarray[Any, Any]]) -> None:
    if not nodes:
        return
    made = {value.name for node in nodes for value in node.results}
    inputs: dict[str, Value] = {}
    for node in nodes:
        inputs.update({v.name: v for v in node.data_operands if v.name not in made})
    outputs = [value for node in nodes for value in node.results]
    if len(nodes) > 50:  # types of all results are checked in small graphs; here only what is read later
        outside = {value for value in outputs if graph.is_output(value) or any(user not in nodes for user in value.users)}
        outputs = [value for value in outputs if value in outside]
    model = emit_segment(nodes, list(inputs.values()), outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run(None, {name: known[name] for name in inputs})
    for value, array in zip(outputs, results, strict=True):
        assert (array.shape, array.dtype) == (value.shape, value.type.dtype.numpy), f"{value}: got {array.shape} {array.dtype}"
        known[value.name] = array


def check(model: nn.Module, *inputs: torch.Tensor, tolerance: float = 1e-5) -> LoweredModel:
    """Lower, run, and compare shapes, dtypes and numbers with torch in eval mode; returns what was lowered."""
    model.eval()
    lowered = lower_model(model, *inputs)
    with torch.no_grad():
        expected = model(*(tensor.clone() for tensor in inputs))
    got = run_graph(lowered, {v.name: t.numpy() for v, t in zip(lowered.graph.inputs, inputs, strict=True)})
    compare(got, expected, tolerance)
    return lowered


def compare(got: Any, expected: Any, tolerance: float) -> None:
    if isinstance(expected, torch.Tensor):
        reference = expected.detach().numpy()
        assert got.shape == reference.shape
        assert got.dtype == reference.dtype
        largest = float(np.abs(reference).max()) if reference.size and reference.dtype.kind == "f" else 0.0
        np.testing.assert_allclose(got, reference, rtol=tolerance, atol=tolerance * max(1.0, largest))
    elif isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            compare(got[key], expected[key], tolerance)
    elif isinstance(expected, (tuple, list)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            compare(one, other, tolerance)
    else:
        assert got == expected
