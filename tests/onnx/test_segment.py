"""Structure of the models that CPU segments become: names, types, determinism, refusals."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from hqc.backends.onnx import emit_segment
from hqc.errors import ExportError
from hqc.ir import DType, Graph, Location, TensorType

F32 = DType.FLOAT32


def two_node_segment() -> tuple[Graph, onnx.ModelProto]:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(F32, (1, 2, 4, 4)))
    weight = graph.add_parameter("conv.weight", np.ones((3, 2, 3, 3), np.float32))
    conv = graph.add_node("conv2d", [x, weight], {"activation": "relu"}, name="conv")
    act = graph.add_node("silu", [conv.result], name="act")
    return graph, emit_segment([conv, act], [x], [conv.result, act.result])


def test_nodes_and_values_are_named_after_the_ir() -> None:
    _, model = two_node_segment()
    assert [(n.op_type, n.name, list(n.output)) for n in model.graph.node] == [
        ("Conv", "conv/Conv", ["conv/Conv"]),
        ("Relu", "conv", ["conv"]),
        ("Sigmoid", "act/Sigmoid", ["act/Sigmoid"]),
        ("Mul", "act", ["act"]),
    ]
    assert [i.name for i in model.graph.initializer] == ["conv.weight"]
    assert [o.name for o in model.graph.output] == ["conv", "act"]


def test_every_value_has_a_type() -> None:
    _, model = two_node_segment()
    typed = {info.name for info in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    assert {name for node in model.graph.node for name in node.output} <= typed


def test_same_graph_gives_same_bytes() -> None:
    first, second = two_node_segment()[1], two_node_segment()[1]
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_a_segment_may_return_its_input_and_a_parameter() -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(F32, (2,)))
    p = graph.add_parameter("p", np.array([1.0, 2.0], np.float32))
    node = graph.add_node("neg", [x], name="y")
    model = emit_segment([node], [x], [x, p, node.result])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run(None, {"x": np.array([3.0, 4.0], np.float32)})
    np.testing.assert_array_equal(np.stack(results), [[3, 4], [1, 2], [-3, -4]])


def test_a_node_that_returns_its_operand_is_copied() -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(F32, (1, 1, 2, 2)))
    node = graph.add_node("resize2d", [x], {"size": (2, 2)}, name="y")
    assert [n.op_type for n in emit_segment([node], [x], node.results).graph.node] == ["Identity"]


def test_opaque_call_is_refused_with_node_and_source_line() -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(F32, (1,)))
    loc = Location("head:my_op#0", "model.py:17")
    node = graph.add_node("opaque", [x], {"id": "my_op"}, name="my_op_1", loc=loc, types=[x.type])
    with pytest.raises(
        ExportError, match=r"my_op_1 \[head:my_op#0 \(model.py:17\)\]: my_op cannot be written to ONNX.*rewrite"
    ):
        emit_segment([node], [x], node.results)


def test_unknown_shape_is_refused() -> None:
    graph = Graph("g")
    x = graph.add_input("x", TensorType(F32))
    node = graph.add_node("relu", [x], name="y")
    with pytest.raises(ExportError, match=r"shape of x is unknown.*example inputs"):
        emit_segment([node], [x], node.results)
