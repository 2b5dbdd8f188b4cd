"""Convolution, transposed convolution, linear and matmul: kernel == int64 reference."""

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
from hqc.backends.bpu import compile
from hqc.backends.bpu.engines import blas
from hqc.errors import CompileError

MODES = ("multiply", "multiply64", "shift", "none")


@st.composite
def conv_cases(draw: st.DrawFn):
    rng = rng_of(draw)
    kind = draw(st.sampled_from(["dense", "depthwise", "grouped", "multiplier", "pointwise"]))
    groups = {"dense": 1, "pointwise": 1, "depthwise": draw(st.integers(2, 9)), "grouped": 2, "multiplier": 3}[kind]
    per_in = 1 if kind in ("depthwise", "multiplier") else draw(st.integers(1, 7))
    per_out = {"depthwise": 1, "multiplier": 2}.get(kind) or draw(st.integers(1, 9))
    kernel = (1, 1) if kind == "pointwise" else (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding = tuple(draw(st.integers(0, 2)) for _ in range(4))
    least = [dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    size = [draw(st.integers(least[i], least[i] + 9)) for i in range(2)]
    batch = draw(st.integers(1, 3))
    dtype = draw(st.sampled_from([INT8, INT8, INT8, INT16]))
    mode = draw(st.sampled_from(MODES if dtype is INT8 else ("multiply64", "multiply")))
    channels, outputs = groups * per_in, groups * per_out
    x = integers(rng, (batch, channels, *size), dtype)
    weight = integers(rng, (outputs, per_in, *kernel))
    per_channel = draw(st.booleans())
    operands = [x, Parameter(weight), None, None]
    if draw(st.booleans()):
        operands[2] = Parameter(rng.integers(-(2**18), 2**18, outputs).astype(np.int32 if dtype is INT8 else np.int64))
    if mode != "none":
        low = -20 if dtype is INT16 and mode == "multiply" else -14
        operands[3] = Parameter(requant(rng, (outputs,) if per_channel else (), mode, low=low))
    attributes = output_attributes(rng, mode) | {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    if draw(st.booleans()):
        shape = one_node("int_conv2d", operands, attributes)[0].outputs[0].shape
        ratio = 2.0 ** rng.uniform(-6, 11, (outputs,) if per_channel else ())
        operands += [integers(rng, shape, dtype), Parameter(arithmetic.requant_params(ratio).array)]
    return one_node("int_conv2d", operands, attributes)


@settings(max_examples=150, deadline=None)
@given(conv_cases())
def test_conv2d_equals_reference(case):
    assert_kernel_equals_reference(*case)


@pytest.mark.parametrize(
    ("shape", "outputs", "kernel"),
    [((1, 16, 30, 30), 24, 3), ((2, 64, 7, 7), 96, 3), ((5, 8, 4, 4), 8, 1), ((1, 3, 40, 40), 16, 7)],
)
def test_conv2d_split_into_tiles_equals_reference(shape, outputs, kernel, monkeypatch):
    """Layers large enough for several row tiles, column tiles and image groups, shared by two threads."""
    monkeypatch.setattr(blas, "_ALONE_MS", 0.0)
    rng = np.random.default_rng(3)
    pad = kernel // 2
    attributes = {"padding": (pad, pad, pad, pad), "clip_min": 0}
    operands = [integers(rng, shape), Parameter(integers(rng, (outputs, shape[1], kernel, kernel))), None]
    operands.append(Parameter(requant(rng, (outputs,), "multiply", low=-13, high=-6)))
    assert_kernel_equals_reference(*one_node("int_conv2d", operands, attributes))


def test_conv2d_reduction_too_long_for_float32_is_split_and_equals_reference():
    """Every product at its maximum: the sum 128 * 128 * 2304 passes 2^24, and int32 holds it."""
    x = np.full((1, 256, 3, 3), -128, np.int8)
    weight = np.full((20, 256, 3, 3), -128, np.int8)
    rows = arithmetic.requant_params(np.float64(2.0**-19)).array
    graph, inputs = one_node("int_conv2d", [x, Parameter(weight), None, Parameter(rows)], {"padding": (1, 1, 1, 1)})
    found = assert_kernel_equals_reference(graph, inputs)
    assert found["y"].max() == 128 * 128 * 2304 >> 19


def test_conv2d_whose_accumulator_can_overflow_is_refused_with_the_numbers():
    weight = np.full((1, 140000, 1, 1), 127, np.int8)
    x = np.zeros((1, 140000, 1, 1), np.int8)
    graph, _ = one_node("int_conv2d", [x, Parameter(weight)], {"mode": "none", "dtype": INT32})
    with pytest.raises(CompileError, match=r"y.*accumulator of channel 0 can reach 2275840000, the limit is 2147483647"):
        compile(graph, engine="blas")


@pytest.mark.parametrize("exponent", range(-16, 15))
def test_requantization_is_exact_at_every_accumulator_near_its_steps(exponent):
    """A 1x1 convolution turns every int8 x pair of weights into an accumulator; each ratio is checked on all of them."""
    rng = np.random.default_rng(exponent + 100)
    x = np.stack([np.repeat(np.arange(-128, 128), 256), np.tile(np.arange(-128, 128), 256)]).reshape(1, 2, 256, 256)
    weight = np.array([[127, 1], [1, 0], [-128, -77], [64, 3]], np.int8).reshape(4, 2, 1, 1)
    ratio = 2.0**exponent * rng.uniform(0.5, 1.0, 4)
    operands = [x.astype(np.int8), Parameter(weight), None, Parameter(arithmetic.requant_params(ratio).array)]
    graph, inputs = one_node("int_conv2d", operands)
    found = compile(graph, engine="blas").run(inputs)["y"]
    acc = np.einsum("nchw,oc->nohw", x, weight[:, :, 0, 0].astype(np.int64))
    params = arithmetic.requant_params(ratio)
    rows = arithmetic.RequantParams(*(row.reshape(4, 1, 1) for row in params.array), mode="multiply")
    np.testing.assert_array_equal(found, arithmetic.requantize(acc, rows))


@st.composite
def transpose_cases(draw: st.DrawFn):
    rng = rng_of(draw)
    groups = draw(st.integers(1, 3))
    channels, per_out = groups * draw(st.integers(1, 4)), draw(st.integers(1, 4))
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    output_padding = tuple(draw(st.integers(0, max(stride[i], dilation[i]) - 1)) for i in range(2))
    limit = [dilation[i] * (kernel[i] - 1) // 2 for i in range(2)]
    top, left = draw(st.integers(0, limit[0])), draw(st.integers(0, limit[1]))
    attributes = {
        "stride": stride, "dilation": dilation, "groups": groups, "output_padding": output_padding,
        "padding": (top, left, top, left),
    }  # fmt: skip
    dtype = draw(st.sampled_from([INT8, INT8, INT16]))
    mode = draw(st.sampled_from(MODES if dtype is INT8 else ("multiply64",)))
    outputs = groups * per_out
    operands = [
        integers(rng, (draw(st.integers(1, 2)), channels, draw(st.integers(1, 6)), draw(st.integers(1, 6))), dtype),
        Parameter(integers(rng, (channels, per_out, *kernel))),
        Parameter(rng.integers(-(2**16), 2**16, outputs).astype(np.int32)),
        None if mode == "none" else Parameter(requant(rng, (outputs,), mode)),
    ]
    attributes |= output_attributes(rng, mode)
    if draw(st.booleans()):
        shape = one_node("int_conv_transpose2d", operands, attributes)[0].outputs[0].shape
        ratio = 2.0 ** rng.uniform(-6, 11, outputs)
        operands += [integers(rng, shape, dtype), Parameter(arithmetic.requant_params(ratio).array)]
    return one_node("int_conv_transpose2d", operands, attributes)


@settings(max_examples=60, deadline=None)
@given(transpose_cases())
def test_conv_transpose2d_equals_reference(case):
    assert_kernel_equals_reference(*case)


@st.composite
def linear_cases(draw: st.DrawFn):
    rng = rng_of(draw)
    lead = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    inputs, outputs = draw(st.integers(1, 70)), draw(st.integers(1, 40))
    dtype = draw(st.sampled_from([INT8, INT8, INT16]))
    mode = draw(st.sampled_from(MODES if dtype is INT8 else ("multiply64",)))
    operands = [
        integers(rng, (*lead, inputs), dtype),
        Parameter(integers(rng, (outputs, inputs))),
        Parameter(rng.integers(-(2**20), 2**20, outputs).astype(np.int32)),
        None if mode == "none" else Parameter(requant(rng, (outputs,), mode)),
    ]
    if draw(st.booleans()):
        ratio = 2.0 ** rng.uniform(-6, 11, outputs)
        operands += [integers(rng, (*lead, outputs), dtype), Parameter(arithmetic.requant_params(ratio).array)]
    return one_node("int_linear", operands, output_attributes(rng, mode))


@settings(max_examples=60, deadline=None)
@given(linear_cases())
def test_linear_equals_reference(case):
    assert_kernel_equals_reference(*case)


def test_a_large_weight_that_is_made_real_in_blocks_gives_the_bits_of_the_reference(monkeypatch):
    monkeypatch.setattr(blas, "_LARGE_WEIGHT", 0)
    monkeypatch.setattr(blas, "_BLOCK_FLOATS", 100)

    @settings(max_examples=80, deadline=None)
    @given(st.one_of(linear_cases(), conv_cases()))
    def run(case):
        graph, inputs = case
        expected = compile(graph, engine="reference").run(inputs)["y"]
        np.testing.assert_array_equal(compile(graph, engine="blas", threads=2).run(inputs)["y"], expected)

    run()


def test_a_large_weight_is_not_kept_a_second_time(monkeypatch):
    made = []
    init = blas.DenseConv.__init__
    monkeypatch.setattr(blas.DenseConv, "__init__", lambda self, *given: (init(self, *given), made.append(self))[0])
    rng = np.random.default_rng(0)
    for rows, large in ((4, True), (400, False)):
        operands = [integers(rng, (rows, 2048)), Parameter(integers(rng, (700, 2048)))]
        operands += [
            Parameter(rng.integers(-9999, 9999, 700).astype(np.int32)),
            Parameter(requant(rng, (700,), "multiply", high=-8)),
        ]
        graph, inputs = one_node("int_linear", operands)
        found = compile(graph, engine="blas").run(inputs)["y"]
        assert (made[-1].matrix is None) == large
        np.testing.assert_array_equal(found, compile(graph, engine="reference").run(inputs)["y"])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_matmul_equals_reference(data):
    rng = rng_of(data.draw)
    m, k, n = (data.draw(st.integers(1, 12)) for _ in range(3))
    k = data.draw(st.sampled_from([k, 1100]))  # 1100: too long for float32
    batch = data.draw(st.sampled_from([((), ()), ((3,), (3,)), ((2, 3), (3,)), ((2, 1), (2, 4))]))
    dtype = data.draw(st.sampled_from([INT8, INT16]))
    mode = "multiply" if dtype is INT8 else "multiply64"
    operands = [
        integers(rng, (*batch[0], m, k), dtype),
        integers(rng, (*batch[1], k, n), dtype),
        Parameter(requant(rng, (), mode, low=-20)),
    ]
    assert_kernel_equals_reference(*one_node("int_matmul", operands, output_attributes(rng, mode)))
