"""Element-wise kernels, tables, softmax and boundaries: kernel == int64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_node import (
    INT8,
    INT16,
    INT32,
    Parameter,
    assert_kernel_equals_reference,
    integers,
    one_node,
    output_attributes,
    requant,
    rng_of,
)

from hqc import arithmetic
from hqc.backends.bpu import compile, kernels
from hqc.errors import QuantizationError
from hqc.ir import DType, QuantParams, TensorType


@st.composite
def shapes(draw: st.DrawFn, max_rank: int = 4):
    return tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=max_rank)))


@st.composite
def broadcast_pairs(draw: st.DrawFn):
    """Two shapes that broadcast, each axis of each possibly 1, the second possibly of lower rank."""
    full = draw(shapes())
    a = tuple(1 if draw(st.integers(0, 3)) == 0 else size for size in full)
    b = tuple(1 if draw(st.integers(0, 3)) == 0 else size for size in full)[draw(st.integers(0, len(full))) :]
    return a, b


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_add_equals_reference(data):
    rng = rng_of(data.draw)
    a, b = data.draw(broadcast_pairs())
    dtype = data.draw(st.sampled_from([INT8, INT8, INT16]))
    bits = dtype.bits
    mode = "multiply" if dtype is INT8 else "multiply64"
    scales = 2.0 ** rng.uniform(-8, 4, 3)
    unit = arithmetic.add_unit(scales[0], scales[1], bits)
    factors = {
        "k_a": arithmetic.add_factor(scales[0], unit),
        "k_b": int(rng.choice([-1, 1])) * arithmetic.add_factor(scales[1], unit),
    }
    second = integers(rng, b, dtype)
    if data.draw(st.booleans()):  # a constant comes in the unit already
        second, factors["k_b"] = Parameter(rng.integers(-(2**20), 2**20, b).astype(np.int32)), 1
    rows = arithmetic.requant_params(np.float64(unit / scales[2]), bits).array
    attributes = output_attributes(rng, mode) | factors
    assert_kernel_equals_reference(*one_node("int_add", [integers(rng, a, dtype), second, Parameter(rows)], attributes))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_mul_equals_reference(data):
    rng = rng_of(data.draw)
    a, b = data.draw(broadcast_pairs())
    mode = data.draw(st.sampled_from(["multiply", "multiply64", "shift", "clip", "none"]))
    dtype = INT16 if mode == "multiply64" else INT8
    operands = [
        integers(rng, a, dtype),
        integers(rng, b, dtype),
        Parameter(requant(rng, (), mode if mode in ("multiply", "multiply64", "shift") else "multiply")),
    ]
    assert_kernel_equals_reference(*one_node("int_mul", operands, output_attributes(rng, mode)))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_div_equals_reference_also_by_zero(data):
    rng = rng_of(data.draw)
    a, b = data.draw(broadcast_pairs())
    dtype = data.draw(st.sampled_from([INT8, INT16]))
    numerator, denominator = integers(rng, a, dtype), integers(rng, b, dtype)
    denominator[rng.random(b) < 0.2] = 0
    numerator[rng.random(a) < 0.2] = 0
    attributes = {"ratio": float(2.0 ** rng.uniform(-10, 10)), "dtype": dtype}
    assert_kernel_equals_reference(*one_node("int_div", [numerator, denominator], attributes))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_requantize_equals_reference(data):
    rng = rng_of(data.draw)
    source = data.draw(st.sampled_from([INT8, INT16, INT32]))
    mode = data.draw(st.sampled_from(["multiply", "multiply64", "shift", "clip"]))
    rows = (
        None
        if mode == "clip" and data.draw(st.booleans())
        else Parameter(requant(rng, (), "multiply64" if mode == "multiply64" else "multiply", low=-34, high=14.9))
    )
    if mode == "shift":
        rows = Parameter(requant(rng, (), "shift"))
    attributes = output_attributes(rng, mode)
    if mode == "clip":
        attributes["dtype"] = data.draw(st.sampled_from([INT8, INT16]))
    assert_kernel_equals_reference(*one_node("int_requantize", [integers(rng, data.draw(shapes()), source), rows], attributes))


def test_elementwise_of_many_blocks_equals_reference(monkeypatch):
    """More elements than one block, an odd number of them, in both memory orders of rank 4, shared by two threads."""
    monkeypatch.setattr(kernels, "_BLOCKS_TO_SHARE", 1)
    rng = np.random.default_rng(5)
    rows = Parameter(arithmetic.requant_params(np.float64(2.0**-13.3)).array)
    operands = [integers(rng, (1, 33, 37, 59)), integers(rng, (1, 33, 37, 59)), rows]
    assert_kernel_equals_reference(*one_node("int_add", operands, {"k_a": 16384, "k_b": -9001}))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_lut_equals_reference(data):
    rng = rng_of(data.draw)
    source, target = data.draw(st.sampled_from([INT8, INT16])), data.draw(st.sampled_from([INT8, INT16]))
    table = integers(rng, (1 << source.bits,), target)
    assert_kernel_equals_reference(*one_node("int_lut", [integers(rng, data.draw(shapes()), source), Parameter(table)]))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_prelu_equals_reference(data):
    rng = rng_of(data.draw)
    shape = (data.draw(st.integers(1, 2)), data.draw(st.integers(1, 5)), *data.draw(shapes(2)))
    dtype = data.draw(st.sampled_from([INT8, INT16]))
    mode = "multiply" if dtype is INT8 else "multiply64"
    slopes = integers(rng, (data.draw(st.sampled_from([1, shape[1]])),), INT16)
    per_channel = (shape[1],) if data.draw(st.booleans()) and len(slopes) > 1 else ()
    operands = [
        integers(rng, shape, dtype),
        Parameter(slopes),
        Parameter(requant(rng, (), mode)),
        Parameter(requant(rng, per_channel, mode, low=-25, high=-8)),
    ]
    assert_kernel_equals_reference(*one_node("int_prelu", operands, output_attributes(rng, mode)))


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_softmax_equals_reference(data):
    rng = rng_of(data.draw)
    shape = data.draw(shapes())
    dtype = data.draw(st.sampled_from([INT8, INT8, INT16]))
    table = arithmetic.softmax_table(float(2.0 ** rng.uniform(-8, 1)), dtype.bits).astype(np.uint16).astype(np.int32)
    mode = "multiply" if dtype is INT8 else "multiply64"
    rows = arithmetic.requant_params(np.float64(2.0**-31 / (1 / 127.5)), dtype.bits).array
    attributes = {"axis": data.draw(st.integers(-len(shape), len(shape) - 1)), "mode": mode, "dtype": dtype}
    assert_kernel_equals_reference(
        *one_node("int_softmax", [integers(rng, shape, dtype), Parameter(table), Parameter(rows)], attributes)
    )


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_relu_and_clamp_equal_reference(data):
    rng = rng_of(data.draw)
    x = integers(rng, data.draw(shapes()), data.draw(st.sampled_from([INT8, INT16, INT32])))
    assert_kernel_equals_reference(*one_node("relu", [x]))
    bounds = sorted(data.draw(st.lists(st.integers(-300, 300), min_size=2, max_size=2)))
    low, high = (data.draw(st.sampled_from([None, float(bound)])) for bound in bounds)
    assert_kernel_equals_reference(*one_node("clamp", [x], {"min": low, "max": high}))


@pytest.mark.parametrize("op", ["maximum", "minimum", "equal", "greater", "less", "greater_equal", "less_equal"])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_selection_and_comparison_equal_reference(op, data):
    rng = rng_of(data.draw)
    a, b = data.draw(broadcast_pairs())
    dtype = data.draw(st.sampled_from([INT8, INT16]))
    assert_kernel_equals_reference(*one_node(op, [integers(rng, a, dtype), integers(rng, b, dtype)]))


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_where_and_logic_equal_reference(data):
    rng = rng_of(data.draw)
    a, b = data.draw(broadcast_pairs())
    condition = rng.random(b) < 0.5
    assert_kernel_equals_reference(*one_node("where", [condition, integers(rng, a), integers(rng, b)]))
    for op in ("logical_and", "logical_or"):
        assert_kernel_equals_reference(*one_node(op, [rng.random(a) < 0.5, condition]))
    assert_kernel_equals_reference(*one_node("logical_not", [condition]))


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_cast_equals_reference(data):
    x = integers(rng_of(data.draw), data.draw(shapes()))
    assert_kernel_equals_reference(*one_node("cast", [x], {"dtype": data.draw(st.sampled_from([INT16, INT32]))}))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_quantize_equals_reference_in_every_rounding(data):
    rng = rng_of(data.draw)
    shape = data.draw(shapes())
    dtype = data.draw(st.sampled_from([INT8, INT16]))
    per_channel = data.draw(st.booleans()) and len(shape) > 1
    scale = (2.0 ** rng.uniform(-6, 2, shape[1] if per_channel else ())).astype(np.float32)
    x = (rng.normal(size=shape) * 200).astype(np.float32)
    ties = rng.random(shape) < 0.3
    x[ties] = (np.rint(x[ties]) + 0.5) * np.float32(scale if not per_channel else 1)
    x[rng.random(shape) < 0.05] = np.inf
    quant = QuantParams(scale, dtype, 1 if per_channel else None)
    rounding = data.draw(st.sampled_from(arithmetic.ROUNDINGS))
    attributes = {"dtype": dtype, "rounding": rounding}
    case = one_node("quantize", [x], attributes, result_quant=quant, types=[TensorType(dtype, shape)])
    assert_kernel_equals_reference(*case)


def test_quantize_refuses_nan_that_an_earlier_op_made():
    """Inputs are checked at the door; a NaN that arises inside is found where it would become an integer."""
    x = np.zeros((1, 3, 4, 4), np.float32)
    quant = QuantParams(0.1)
    graph, _ = one_node("quantize", [x], result_quant=quant, types=[TensorType(INT8, x.shape)])
    (step,) = compile(graph, engine="blas").steps
    x[0, 1, 2, 3] = np.nan
    with pytest.raises(QuantizationError, match="cannot quantize NaN in x0"):
        step.run([x])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_dequantize_equals_reference(data):
    rng = rng_of(data.draw)
    shape = data.draw(shapes())
    dtype = data.draw(st.sampled_from([INT8, INT16, INT32]))
    per_channel = data.draw(st.booleans()) and len(shape) > 1
    quant = QuantParams(
        (2.0 ** rng.uniform(-12, 2, shape[1] if per_channel else ())).astype(np.float32), dtype, 1 if per_channel else None
    )
    graph, inputs = one_node("dequantize", [integers(rng, shape, dtype)], quants={0: quant})
    found = assert_kernel_equals_reference(graph, inputs)
    assert found["y"].dtype == DType.FLOAT32.numpy
