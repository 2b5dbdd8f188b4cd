"""onnxruntime's `Attention` and `MultiHeadAttention`: read as products and a softmax, with the numbers of onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_harness import run_lowered, session

from hqc.frontend.onnx import lower_onnx

ROWS, OTHER, WIDTH = (2, 5, 8), (2, 7, 8), 8
MASK = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
Given = list[tuple[int, ...] | np.ndarray | None]
CASES: dict[str, tuple[str, Given, dict[str, Any]]] = {
    "attention": ("Attention", [(8, 24), (24,)], {}),
    "no bias, scale": ("Attention", [(8, 24), None], {"scale": 0.25}),
    "keys masked": ("Attention", [(8, 24), (24,), MASK], {}),
    "causal": ("Attention", [(8, 24), (24,)], {"unidirectional": 1}),
    "scores biased": ("Attention", [(8, 24), (24,), None, None, (2, 2, 5, 5)], {}),
    "multi-head": ("MultiHeadAttention", [OTHER, OTHER], {}),
    "multi-head with bias": ("MultiHeadAttention", [OTHER, OTHER, (24,)], {}),
    "multi-head masked": ("MultiHeadAttention", [ROWS, ROWS, None, MASK], {}),
}


def model_of(op: str, given: Given, attributes: dict[str, Any]) -> onnx.ModelProto:
    arrays = {
        f"c{index}": item if isinstance(item, np.ndarray) else np.random.default_rng(index).normal(size=item).astype(np.float32)
        for index, item in enumerate(given)
        if item is not None
    }
    names = ["" if item is None else f"c{index}" for index, item in enumerate(given)]
    node = helper.make_node(op, ["x", *names], ["y"], "fused", domain="com.microsoft", num_heads=2, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ROWS)],
        [helper.make_empty_tensor_value_info("y")],
        [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize("name", CASES)
def test_attention_is_products_and_a_softmax(name: str) -> None:
    proto = model_of(*CASES[name])
    lowered = lower_onnx(proto)
    ops = [node.op.name for node in lowered.graph.nodes]
    assert not lowered.opaque and ops.count("matmul") == 2 and ops.count("softmax") == 1
    feeds = {"x": np.linspace(-2, 2, 80, dtype=np.float32).reshape(ROWS)}
    (got,), (want,) = run_lowered(lowered, feeds), session(proto).run(None, feeds)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
