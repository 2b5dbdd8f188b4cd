"""Linear layers that simplifiers write for rows: the plan of the tokens, and the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_harness import run_lowered, session

from hqc.frontend.onnx import lower_onnx


def model(body: str, last: str) -> onnx.ModelProto:
    numbers = ", ".join(["0.5", "-0.25", "1.0", "0.125"] * 6)
    text = f"""net (float[2,3,4] x) => (float[{last}] z) {{
        v = Constant<value = float[4,6] {{{numbers}}}>()
        w = Constant<value = float[6,4] {{{numbers}}}>()
        b = Constant<value = float[6] {{0.5, -1.0, 2.0, 0.0, 1.0, -0.25}}>()
        rows = Constant<value_ints = [-1, 4]>()
        wide = Constant<value_ints = [2, 3, 6]>()
        tokens = Constant<value_ints = [2, 3, 4]>()
        heads = Constant<value_ints = [2, 3, 3, 2]>()
        turned = Constant<value_ints = [3, 2, 2, 3]>()
        {body}
    }}"""
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')


READ = {
    "one layer": ("r = Reshape(x, rows) l = Gemm(r, v, b) y = Reshape(l, wide) z = Relu(y)", "2,3,6", ["linear", "relu"]),
    "two layers": (
        "r = Reshape(x, rows) l = Gemm(r, v) g = Tanh(l) s = Mul(g, b) m = Gemm(s, w) y = Reshape(m, tokens) z = Add(y, x)",
        "2,3,4",
        ["linear", "tanh", "mul", "linear", "add"],
    ),
    "heads behind": (
        "r = Reshape(x, rows) l = Gemm(r, v) y = Reshape(l, heads) z = Relu(y)",
        "2,3,3,2",
        ["linear", "reshape", "relu"],
    ),
    "moved before": (
        "t = Transpose<perm = [1,0,2]>(x) r = Reshape(t, rows) l = Gemm(r, v) y = Reshape(l, turned) z = Relu(y)",
        "3,2,2,3",
        ["transpose", "linear", "reshape", "relu"],
    ),
    "the result are rows": ("r = Reshape(x, rows) z = Gemm(r, v)", "6,6", ["reshape", "linear"]),
    "over all rows": (
        "r = Reshape(x, rows) l = Gemm(r, v) s = Softmax<axis = 0>(l) z = Reshape(s, wide)",
        "2,3,6",
        ["reshape", "linear", "softmax", "reshape"],
    ),
    "a slope per channel": (
        "r = Reshape(x, rows) l = Gemm(r, v) s = PRelu(l, b) z = Reshape(s, wide)",
        "2,3,6",
        ["reshape", "linear", "prelu", "reshape"],
    ),
}


@pytest.mark.parametrize("name", READ)
def test_layers_of_rows_work_on_tokens(name: str) -> None:
    body, last, ops = READ[name]
    proto = model(body, last)
    lowered = lower_onnx(proto)
    assert [node.op.name for node in lowered.graph.nodes] == ops
    feeds = {"x": np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4)}
    (got,), (want,) = run_lowered(lowered, feeds), session(proto).run(None, feeds)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
