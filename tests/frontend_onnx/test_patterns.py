"""What exporters write as several nodes is read back as one operation, and what only looks like it is not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_harness import run_lowered, session

from hqc.errors import HqcError
from hqc.frontend.onnx import lower_onnx
from hqc.ir import Graph
from hqc.march import get_spec
from hqc.passes import PassContext
from hqc.passes.pipeline_text import parse_passes

RNG = np.random.default_rng(0)
NORM = """m = ReduceMean<axes = [-1]>(x)  d = Sub(x, m)  s = Pow(d, two)  v = ReduceMean<axes = [-1]>(s)
    e = Add(v, eps)  r = Sqrt(e)  n = Div(d, r)"""
CONSTANTS = {
    "two": np.array(2.0, np.float32), "eps": np.array(1e-5, np.float32), "g": RNG.random(6).astype(np.float32),
    "b": RNG.random(6).astype(np.float32), "w": RNG.random((6, 6)).astype(np.float32), "h": np.array(0.5, np.float32),
    "zero": np.array([0], np.int64), "one": np.array([1], np.int64), "three": np.array([3], np.int64), "six": np.array([6], np.int64),
    "last": np.array([2], np.int64), "far": np.array([2**62], np.int64), "steps": np.array([2], np.int64),
    "col": RNG.random((6, 1)).astype(np.float32), "eight": np.array([8], np.int64),
    "parts": np.array(3, np.int64), "first": np.array(0, np.int64), "second": np.array(1, np.int64),
}  # fmt: skip


def run_passes(graph: Graph, names: str) -> Graph:
    for item in parse_passes(names):
        item.run(graph, PassContext(get_spec("bayes")))
    return graph


def ops(text: str, shape: str = "1,6,6", result: str = "N", passes: str = "") -> list[str]:
    """The ops that a model from x to y becomes, which compute what onnxruntime computes."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 13]>\nnet (float[{shape}] x) => (float[{result}] y) {{ {text} }}'
    )
    used = {name for node in proto.graph.node for name in node.input}
    for name in sorted(used & CONSTANTS.keys()):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(CONSTANTS[name], name))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    lowered = lower_onnx(proto)
    x = RNG.random([int(size) for size in shape.split(",")]).astype(np.float32)
    (got,), (want,) = run_lowered(lowered, {"x": x}), session(proto).run(None, {"x": x})
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    return [node.op.name for node in (run_passes(lowered.graph, passes) if passes else lowered.graph).nodes]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("p = MatMul(x, w)  y = Add(p, b)", ["linear"]),
        ("p = MatMul(x, w)  y = Add(b, p)", ["linear"]),
        ("p = MatMul(x, w)  y = Add(p, col)", ["linear", "add"]),  # one number per row is no bias
        ("p = MatMul(x, w)  q = Add(p, b)  y = Mul(p, q)", ["linear", "add", "mul"]),
        ("m = ReduceMean<axes = [1]>(x)  p = Mul(m, two)  y = Div(p, h)", ["mean", "mul"]),
        ("p = Mul(x, h)  t = Transpose<perm = [0,2,1]>(x)  q = Mul(t, h)  y = MatMul(p, q)", ["transpose", "matmul", "mul"]),
        ("p = Mul(x, h)  t = Transpose<perm = [0,2,1]>(x)  q = Mul(t, two)  y = MatMul(p, q)", ["mul", "transpose", "mul", "matmul"]),
        ("a = Slice(x, zero, three, last)  c = Slice(x, three, far, last)  y = Concat<axis = 2>(c, a)", ["split", "cat"]),
        ("a = Slice(x, zero, three, last)  c = Slice(x, one, far, last)  y = Concat<axis = 2>(c, a)", ["slice", "slice", "cat"]),
        ("a = Slice(x, zero, far, one, steps)  y = Slice(a, one, far, last, steps)", ["slice"]),
        ("a = Slice(x, zero, far, last, steps)  y = Slice(a, one, far, last)", ["slice", "slice"]),
        ("t = Transpose<perm = [0,2,1]>(x)  s = Softmax<axis = 2>(t)  y = Transpose<perm = [0,2,1]>(s)", ["softmax"]),
        ("t = Transpose<perm = [2,0,1]>(x)  s = LogSoftmax<axis = 1>(t)  y = Transpose<perm = [0,2,1]>(s)", ["transpose", "log_softmax"]),
        ("t = Transpose<perm = [0,2,1]>(x)  s = Softmax(t)  u = Transpose<perm = [0,2,1]>(s)  y = Add(u, s)",
         ["transpose", "softmax", "transpose", "add"]),
    ],
)  # fmt: skip
def test_spellings(text: str, found: list[str]) -> None:
    assert ops(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{NORM}  a = Mul(n, g)  y = Add(a, b)", ["layer_norm"]),
        (f"{NORM}  a = Mul(g, n)  y = Add(b, a)", ["layer_norm"]),
        (f"{NORM}  y = Mul(n, g)", ["layer_norm"]),
        (f"{NORM}  y = Identity(n)", ["layer_norm"]),
        (f"{NORM}  y = Mul(n, col)", ["layer_norm", "mul"]),
        (f"{NORM}  y = Add(n, s)", ["mean", "sub", "pow_scalar", "mean", "add", "sqrt", "div", "add"]),
        (NORM.replace("Sub(x, m)", "Sub(x, b)") + " y = Identity(n)", ["add", "pow_scalar", "mean", "add", "sqrt", "div"]),
        ("n = ReduceL2<axes = [1]>(x)  c = Clip(n, eps)  y = Div(x, c)", ["lp_normalize"]),
        ("n = ReduceL1<axes = [1, 2]>(x)  c = Max(n, eps)  s = Shape(x)  e = Expand(c, s)  y = Div(x, e)", ["lp_normalize"]),
        ("n = ReduceL2<axes = [1]>(x)  y = Div(x, n)", ["reduce_l2", "div"]),
    ],
)  # fmt: skip
def test_norms_are_read_by_canonicalize(text: str, found: list[str]) -> None:
    assert ops(text, passes="canonicalize") == found


def test_a_norm_keeps_the_name_of_the_last_node() -> None:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 13]>\nnet (float[1,6,6] x) => (float[1,6,6] y) {{ {NORM} a = Mul(n, g) y = Add(a, b) }}'
    )
    for name in ("two", "eps", "g", "b"):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(CONSTANTS[name], name))
    (node,) = run_passes(lower_onnx(proto).graph, "canonicalize").nodes
    assert node.name == "y" and node.attributes["normalized_ndim"] == 1 and abs(node.attributes["eps"] - 1e-5) < 1e-9


def test_space_to_depth_by_slices_is_four_slices() -> None:
    """As YOLOv5's focus layer and swin's merging are exported: the first steps are shared."""
    text = """a = Slice(x, zero, far, one, steps)  c = Slice(x, one, far, one, steps)
        p = Slice(a, zero, far, last, steps)  q = Slice(a, one, far, last, steps)
        r = Slice(c, zero, far, last, steps)  t = Slice(c, one, far, last, steps)  y = Concat<axis = 0>(p, q, r, t)"""
    assert ops(text) == ["slice", "slice", "slice", "slice", "cat"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("s = SequenceConstruct(x, x)  y = ConcatFromSequence<axis = 1>(s)", ["cat"]),
        ("s = SequenceConstruct(x, x)  y = ConcatFromSequence<axis = 0, new_axis = 1>(s)", ["reshape", "reshape", "cat"]),
        ("s = SplitToSequence<axis = 1>(x, parts)  y = SequenceAt(s, second)", ["split", "identity"]),
        ("s = SplitToSequence<axis = 1, keepdims = 0>(x)  y = SequenceAt(s, second)", ["split", "reshape", "identity"]),
        ("k = SequenceEmpty()  l = SequenceInsert(k, x)  r = Relu(x)  m = SequenceInsert(l, r, first)  o = SequenceInsert(m, x)  "
         "n = SequenceLength(o)  q = SequenceErase(o)  y = ConcatFromSequence<axis = 1>(q)", ["relu", "cat"]),
    ],
)  # fmt: skip
def test_sequences_are_known_while_the_file_is_read(text: str, found: list[str]) -> None:
    assert ops(text) == found


def test_a_sequence_has_no_place_in_the_graph_itself() -> None:
    head = '<ir_version: 8, opset_import: ["" : 13]>\nnet (float[1,6,6] x) => '
    for text, told in (
        ("(seq(float[1,6,6]) s) { s = SequenceConstruct(x, x) }", "the output s is a sequence"),
        ("(float[1,6,6] y) { s = SequenceConstruct(x, x)  y = SequenceAt(s, x) }", "its operand x is computed at run time"),
    ):
        with pytest.raises(HqcError, match=told):
            lower_onnx(onnx.parser.parse_model(head + text))


@pytest.mark.parametrize(
    "text",
    ["y = MatMul(w, x)", "y = Einsum<equation = \"oi,i->o\">(w, x)", "y = Einsum<equation = \"i,io->o\">(x, w)"],
)  # fmt: skip
def test_a_constant_matrix_times_a_vector_is_a_layer(text: str) -> None:
    assert ops(text, shape="6") == ["linear"]
