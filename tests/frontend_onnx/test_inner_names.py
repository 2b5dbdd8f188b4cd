"""`node_name` takes the name of every node of a file, those inside of what is read as one operation included."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import hqc
from hqc.errors import OverrideError

PATTERNS = {
    "SiLU": "a = Sigmoid(x)  y = Mul(x, a)",
    "hardswish by hand": "a = Add(x, three)  b = Clip(a, zero, six)  c = Mul(x, b)  y = Div(c, six)",
    "GELU": "a = Div(x, root)  b = Erf(a)  c = Add(b, one)  d = Mul(x, c)  y = Mul(d, half)",
    "mish": "a = Softplus(x)  b = Tanh(a)  y = Mul(x, b)",
    "a linear layer": "a = MatMul(x, w)  y = Add(a, v)",
    "scaled attention": "q = Mul(x, half)  t = Transpose<perm = [0, 1, 3, 2]>(x)  k = Mul(t, half)  y = MatMul(q, k)",
    "a layer norm": """m = ReduceMean<axes = [-1]>(x)  d = Sub(x, m)  s = Pow(d, two)  v2 = ReduceMean<axes = [-1]>(s)  e = Add(v2, eps)
        r = Sqrt(e)  n = Div(d, r)  g = Mul(n, v)  y = Add(g, v)""",
    "a layer norm of TensorFlow": """f = Reshape(x, rows)  m = GlobalAveragePool(f)  n = Neg(m)  d = Sub(f, m)  s = Mul(d, d)
        v2 = GlobalAveragePool(s)  e = Add(v2, eps)  r = Sqrt(e)  i = Reciprocal(r)  g = Mul(i, v3)  p = Mul(f, g)  q = Mul(n, g)
        b = Add(q, v3)  z = Add(p, b)  y = Reshape(z, image)""",
    "chunks": "a = Slice(x, i0, i2, i1)  b = Slice(x, i2, i4, i1)  y = Concat<axis = 1>(b, a)",
}


def named(body: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]>\nnet (float[1,4,8,8] x) => (float[1,4,8,8] y) {{ {body} }}'
    )
    numbers = {"zero": 0, "one": 1, "two": 2, "three": 3, "six": 6, "half": 0.5, "root": 2**0.5, "eps": 1e-5}
    arrays = {name: np.array(number, np.float32) for name, number in numbers.items()}
    random = np.random.default_rng(0)
    arrays |= {"w": random.standard_normal((8, 8)).astype(np.float32), "v": random.standard_normal(8).astype(np.float32)}
    arrays |= {"v3": arrays["v"][None, None], "rows": np.array([1, 32, 8]), "image": np.array([1, 4, 8, 8])}
    arrays |= {f"i{number}": np.array([number], np.int64) for number in (0, 1, 2, 4)}
    read = {name for node in proto.graph.node for name in node.input}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items() if name in read)
    for node in proto.graph.node:
        node.name = f"/block/{node.op_type}_{node.output[0]}"
    return proto


@pytest.mark.parametrize("form", ["ptq", "qat"])
@pytest.mark.parametrize("body", PATTERNS.values(), ids=PATTERNS)
def test_a_name_inside_a_pattern_addresses_what_the_pattern_is(body: str, form: Literal["ptq", "qat"]) -> None:
    proto = named(body)
    for node in proto.graph.node:
        found = hqc.explain(proto, march="bayes-e", form=form, hybrid_dict={"node_name": [node.name]})
        assert any(each.request is not None for each in found.graph.nodes), node.name
    with pytest.raises(OverrideError, match="names no node"):
        hqc.explain(proto, march="bayes-e", form=form, hybrid_dict={"node_name": ["/block/none"]})
