"""Boundary ops inside emitted segments: quantize and dequantize, before and in the integer stage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hqc import arithmetic
from hqc.backends.onnx import emit_segment
from hqc.backends.onnx.verify import run_model
from hqc.errors import ExportError
from hqc.ir import DType, Graph, Node, QuantParams, TensorType

Array = np.ndarray[Any, Any]
X = np.random.default_rng(0).normal(0, 20, (2, 3, 4)).astype(np.float32)


def boundary(
    op: str, x: Array, quant: QuantParams | None, attributes: dict[str, Any], given: QuantParams | None = None
) -> Node:
    graph = Graph("g")
    value = graph.add_input("x", TensorType(DType.from_numpy(x.dtype), x.shape))
    value.quant = given
    node = graph.add_node(op, [value], attributes, name="y")
    node.result.quant = quant
    return node


def run(node: Node, x: Array) -> Array:
    return run_model(emit_segment([node], node.operands, node.results), {"x": x})["y"]


@pytest.mark.parametrize("rounding", arithmetic.ROUNDINGS)
@pytest.mark.parametrize("dtype", [DType.INT8, DType.INT16])
@pytest.mark.parametrize("axis", [None, 1])
def test_quantize_to_integers(rounding: str, dtype: DType, axis: int | None) -> None:
    scale: Any = 0.3 if axis is None else [0.3, 0.1, 0.7]
    node = boundary("quantize", X, QuantParams(scale, dtype, axis), {"rounding": rounding, "dtype": dtype, "integer": True})
    result = run(node, X)
    assert result.dtype == dtype.numpy
    np.testing.assert_array_equal(result, arithmetic.quantize(X, np.float32(scale), dtype.bits, rounding, axis))


def test_quantize_before_the_integer_stage_gives_reals_on_the_grid() -> None:
    node = boundary("quantize", X, QuantParams(0.3), {"rounding": "floor"})
    expected = arithmetic.dequantize(arithmetic.quantize(X, np.float32(0.3), 8, "floor"), np.float32(0.3))
    np.testing.assert_array_equal(run(node, X), expected)


def test_requantize_before_the_integer_stage_gives_reals_on_the_grid() -> None:
    node = boundary("requantize", X, QuantParams(0.7), {})
    expected = arithmetic.dequantize(arithmetic.quantize(X, np.float32(0.7)), np.float32(0.7))
    np.testing.assert_array_equal(run(node, X), expected)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
@pytest.mark.parametrize("axis", [None, -1])
def test_dequantize(dtype: type, axis: int | None) -> None:
    info = np.iinfo(dtype)
    q = np.random.default_rng(1).integers(info.min, info.max, (2, 3, 4)).astype(dtype)
    scale: Any = 0.3 if axis is None else [0.3, 0.1, 0.7, 0.9]
    given = QuantParams(scale, DType.from_numpy(dtype), axis)
    node = boundary("dequantize", q, None, {}, given)
    np.testing.assert_array_equal(run(node, q), arithmetic.dequantize(q, np.float32(scale), axis))


def test_dequantize_of_a_real_value_is_the_identity() -> None:
    node = boundary("dequantize", X, None, {}, QuantParams(0.3))
    np.testing.assert_array_equal(run(node, X), X)


@pytest.mark.parametrize("op", ["quantize", "dequantize"])
def test_a_missing_scale_is_an_error_that_names_the_value(op: str) -> None:
    x = X if op == "quantize" else np.zeros((2, 3, 4), np.int8)
    with pytest.raises(ExportError, match=r"y: (x|y) has no scale; run propagate-scales"):
        run(boundary(op, x, None, {}), x)
