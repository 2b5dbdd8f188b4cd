"""Images of layout NHWC between transposes, as converters of TensorFlow leave them where their optimizer gives up."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx_harness import run_lowered, session

from hqc.frontend.onnx import lower_onnx

KERNEL = ", ".join(["0.5", "-0.25", "1.0", "0.125"] * 4)
LAST, FIRST = "perm = [0,2,3,1]", "perm = [0,3,1,2]"


def model(body: str, result: str = "1,4,N,M") -> onnx.ModelProto:
    """`x` is an image of the file (NCHW); `a` is a convolution of it in NHWC, `z` the result."""
    text = f"""net (float[1,4,6,5] x) => (float[{result}] z) {{
        k = Constant<value = float[4,4,1,1] {{{KERNEL}}}>()
        two = Constant<value = float {{2.0}}>()
        shift = Constant<value = float[4] {{0.5, -1.0, 0.25, 2.0}}>()
        map = Constant<value = float[1,6,1,4] {{{", ".join(str(item / 8) for item in range(24))}}}>()
        pads = Constant<value_ints = [0, 1, 0, 0, 0, 0, 2, 0]>()
        axes = Constant<value_ints = [1, 2]>()
        height = Constant<value_ints = [1]>()
        halves = Constant<value_ints = [2, 2]>()
        begin = Constant<value_ints = [1]>()
        end = Constant<value_ints = [5]>()
        slope = Constant<value = float[4] {{0.1, 0.2, 0.3, 0.4}}>()
        c = Conv(x, k)
        a = Transpose<{LAST}>(c)
        {body}
    }}"""
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]>\n{text}')


LEFT = {
    "element by element": (f"b = Add(a, shift) d = Mul(b, map) e = Clip(d, two) t = Transpose<{FIRST}>(e) z = Conv(t, k)", 0),
    "a residual": (f"b = Relu(a) d = Add(b, a) t = Transpose<{FIRST}>(d) z = Conv(t, k)", 0),
    "pads": (f"b = Pad(a, pads) t = Transpose<{FIRST}>(b) z = Conv(t, k)", 0),
    "squeeze and excite": (
        f"b = Relu(a) m = ReduceMean<axes = [1, 2]>(b) s = Transpose<{FIRST}>(m) e = Conv(s, k) f = Transpose<{LAST}>(e) g = Sigmoid(f)"
        f"h = Mul(b, g) t = Transpose<{FIRST}>(h) z = Conv(t, k)",
        0,
    ),
    "parts of channels": (
        f"p, q = Split<axis = 3>(a, halves) r = Relu(p) b = Concat<axis = -1>(r, q) t = Transpose<{FIRST}>(b) z = Conv(t, k)",
        0,
    ),
    "rows": (f"b = Slice(a, begin, end, height) t = Transpose<{FIRST}>(b) z = Conv(t, k)", 0),
    "softmax over channels": (f"b = Softmax<axis = 3>(a) t = Transpose<{FIRST}>(b) z = Conv(t, k)", 0),
    "read by something else": (
        f"b = Relu(a) t = Transpose<{FIRST}>(b) d = Conv(t, k) m = ReduceSum(b, axes) n = Transpose<{FIRST}>(m) z = Add(d, n)",
        0,
    ),
    "a result": ("z = Relu(a)", 1),
    "a slope per channel": (f"b = PRelu(a, slope) t = Transpose<{FIRST}>(b) z = Conv(t, k)", 0),
}


@pytest.mark.parametrize("name", LEFT)
def test_computations_on_nhwc_move_to_nchw(name: str) -> None:
    body, transposes = LEFT[name]
    proto = model(body)
    if name == "a result":
        proto = model(body, "1,6,5,4")
    lowered = lower_onnx(proto)
    assert Counter(node.op.name for node in lowered.graph.nodes)["transpose"] == transposes
    feeds = {"x": np.linspace(-2, 2, 120, dtype=np.float32).reshape(1, 4, 6, 5)}
    (got,), (want,) = run_lowered(lowered, feeds), session(proto).run(None, feeds)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_mean_without_its_axes_needs_no_transpose() -> None:
    proto = model("b = Relu(a) m = ReduceMean<axes = [1, 2], keepdims = 0>(b) z = Mul(m, shift)", "1,4")
    lowered = lower_onnx(proto)
    assert "transpose" not in [node.op.name for node in lowered.graph.nodes]
    feeds = {"x": np.linspace(-2, 2, 120, dtype=np.float32).reshape(1, 4, 6, 5)}
    np.testing.assert_allclose(run_lowered(lowered, feeds)[0], session(proto).run(None, feeds)[0], rtol=1e-5, atol=1e-6)
