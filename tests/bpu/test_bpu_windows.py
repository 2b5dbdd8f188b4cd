"""Pooling, reductions, resize and layout: kernel == int64 reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from one_node import (
    INT8,
    INT16,
    Parameter,
    assert_kernel_equals_reference,
    integers,
    one_node,
    output_attributes,
    requant,
    rng_of,
)

from hqc import arithmetic
from hqc.errors import ShapeError


@st.composite
def pools(draw: st.DrawFn, dilated: bool = False):
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    attributes = {
        "kernel": kernel,
        "stride": (draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        "padding": tuple(draw(st.integers(0, kernel[i % 2] // 2)) for i in range(4)),
        "ceil_mode": draw(st.booleans()),
    }
    if dilated:
        attributes["dilation"] = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    shape = (draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 11)), draw(st.integers(1, 11)))
    return shape, attributes


def _output_shape(op, x, attributes):
    try:
        return one_node(op, [x, *([None] * 0)], attributes)[0].outputs[0].shape
    except ShapeError:  # the window does not fit
        return None


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_max_pool2d_equals_reference(data):
    rng = rng_of(data.draw)
    shape, attributes = data.draw(pools(dilated=True))
    x = integers(rng, shape, data.draw(st.sampled_from([INT8, INT16])))
    assume(_output_shape("max_pool2d", x, attributes))
    assert_kernel_equals_reference(*one_node("max_pool2d", [x], attributes))


def test_max_pool2d_of_several_tiles_equals_reference():
    x = integers(np.random.default_rng(1), (2, 64, 45, 45))
    attributes = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}
    assert_kernel_equals_reference(*one_node("max_pool2d", [x], attributes))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_avg_pool2d_equals_reference(data):
    """One divisor, a divisor per position, and bernoulli's gain."""
    rng = rng_of(data.draw)
    shape, attributes = data.draw(pools())
    dtype = data.draw(st.sampled_from([INT8, INT16]))
    mode = "multiply" if dtype is INT8 else "multiply64"
    x = integers(rng, shape, dtype)
    result = _output_shape("int_avg_pool2d", x, attributes)
    assume(result)
    kind = data.draw(st.sampled_from(["uniform", "per position", "gain"]))
    attributes |= output_attributes(rng, mode)
    rows = Parameter(requant(rng, result[2:] if kind == "per position" else (), mode, low=-8))
    if kind == "gain":
        rows, attributes["gain"] = None, arithmetic.bernoulli_pool_gain(attributes["kernel"][0] * attributes["kernel"][1])
    assert_kernel_equals_reference(*one_node("int_avg_pool2d", [x, rows], attributes))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_adaptive_pools_equal_reference(data):
    rng = rng_of(data.draw)
    shape = tuple(data.draw(st.integers(1, limit)) for limit in (2, 5, 9, 9))
    size = data.draw(st.sampled_from([(1, 1), (2, 3), (7, 1), (5, 5)]))
    dtype = data.draw(st.sampled_from([INT8, INT16]))
    mode = "multiply" if dtype is INT8 else "multiply64"
    x = integers(rng, shape, dtype)
    rows = requant(rng, size if data.draw(st.booleans()) else (), mode, low=-10)
    attributes = output_attributes(rng, mode) | {"output_size": size}
    assert_kernel_equals_reference(*one_node("int_adaptive_avg_pool2d", [x, Parameter(rows)], attributes))
    assert_kernel_equals_reference(*one_node("adaptive_max_pool2d", [x], {"output_size": size}))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_reductions_equal_reference(data):
    rng = rng_of(data.draw)
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    axes = tuple(data.draw(st.lists(st.integers(-len(shape), len(shape) - 1), max_size=3, unique_by=lambda a: a % len(shape))))
    dtype = data.draw(st.sampled_from([INT8, INT16]))
    mode = "multiply" if dtype is INT8 else "multiply64"
    x = integers(rng, shape, dtype)
    attributes = {"axes": axes, "keepdims": data.draw(st.booleans())}
    rows = Parameter(requant(rng, (), mode))
    assert_kernel_equals_reference(*one_node("int_sum", [x, rows], attributes | output_attributes(rng, mode)))
    for op in ("reduce_max", "reduce_min"):
        assert_kernel_equals_reference(*one_node(op, [x], attributes))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_argmax_and_argmin_equal_reference_and_take_the_lowest_index(data):
    rng = rng_of(data.draw)
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=4)))
    x = rng.integers(-2, 3, shape).astype(np.int8)  # many ties
    attributes = {"axis": data.draw(st.integers(-len(shape), len(shape) - 1)), "keepdims": data.draw(st.booleans())}
    for op in ("argmax", "argmin"):
        assert_kernel_equals_reference(*one_node(op, [x], attributes))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_resize2d_equals_reference(data):
    rng = rng_of(data.draw)
    shape = tuple(data.draw(st.integers(1, limit)) for limit in (2, 4, 9, 9))
    attributes = {
        "size": (data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20))),
        "mode": data.draw(st.sampled_from(["nearest", "bilinear"])),
        "align_corners": data.draw(st.booleans()),
        "fraction_bits": data.draw(st.sampled_from([8, 16])),
        "scale_factor": data.draw(st.sampled_from([(), (1.3, 0.7)])),
    }
    x = integers(rng, shape, data.draw(st.sampled_from([INT8, INT16])))
    assert_kernel_equals_reference(*one_node("int_resize2d", [x], attributes))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_grid_sample_equals_reference(data):
    rng = rng_of(data.draw)
    n, c, h, w = (data.draw(st.integers(1, limit)) for limit in (3, 4, 9, 9))
    attributes = {
        "mode": data.draw(st.sampled_from(["nearest", "bilinear"])),
        "padding_mode": data.draw(st.sampled_from(["zeros", "border"])),
        "fraction_bits": data.draw(st.integers(1, 8)),
    }
    x = integers(rng, (n, c, h, w), data.draw(st.sampled_from([INT8, INT16])))
    shape = (n, data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9)), 2)
    near = ((np.array([w, h]) + 2) << attributes["fraction_bits"]) * rng.uniform(-0.3, 1.2, shape)
    positions = near.astype(np.int16)
    positions[rng.random(shape) < 0.05] = data.draw(st.sampled_from([-32768, 32767]))
    if data.draw(st.booleans()):
        assert_kernel_equals_reference(*one_node("int_grid_sample", [x, positions], attributes))
        return
    grid = integers(rng, shape, data.draw(st.sampled_from([INT8, INT16])))
    table = rng.permutation(np.resize(positions.reshape(-1), 2 << (8 * grid.itemsize))).reshape(2, -1)
    assert_kernel_equals_reference(*one_node("int_grid_sample", [x, grid, Parameter(table)], attributes))


def _factor(draw):
    f = draw(st.integers(1, 3))
    return f, {"factor": f}


@pytest.mark.parametrize("op", ["pixel_shuffle", "pixel_unshuffle"])
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_pixel_shuffles_equal_reference(op, data):
    rng = rng_of(data.draw)
    f, attributes = _factor(data.draw)
    n, c, h, w = (data.draw(st.integers(1, 3)) for _ in range(4))
    shape = (n, c * f * f, h, w) if op == "pixel_shuffle" else (n, c, h * f, w * f)
    assert_kernel_equals_reference(*one_node(op, [integers(rng, shape)], attributes))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_layout_ops_equal_reference(data):
    """One random array through every op that only moves elements."""
    rng = rng_of(data.draw)
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=5)))
    rank = len(shape)
    x = integers(rng, shape, data.draw(st.sampled_from([INT8, INT16])))
    axis = data.draw(st.integers(-rank, rank - 1))
    size = shape[axis]
    start = data.draw(st.integers(-size, size - 1))
    pads = tuple(data.draw(st.integers(0, 2)) for _ in range(2 * rank))
    reflect = tuple(min(pads[i], shape[i % rank] - 1) for i in range(2 * rank))
    cut = data.draw(st.integers(0, size))
    for op, attributes in (
        ("identity", {}),
        ("dropout", {}),
        ("reshape", {"shape": (0, -1)}),
        ("transpose", {"perm": tuple(data.draw(st.permutations(range(rank))))}),
        ("slice", {"axes": (axis,), "starts": (start,), "ends": (2**31,), "steps": (data.draw(st.integers(1, 3)),)}),
        ("split", {"axis": axis, "sizes": (cut, size - cut) if 0 < cut < size else (size,)}),
        ("pad", {"pads": pads, "value": float(data.draw(st.integers(-128, 127)))}),
        ("pad", {"pads": pads, "mode": "edge"}),
        ("pad", {"pads": reflect, "mode": "reflect"}),
        ("pad", {"pads": (-1 if shape[0] > 1 else 0, *pads[1:]), "value": 3.0}),
        ("expand", {"shape": (3, *shape)}),
        ("tile", {"repeats": tuple(data.draw(st.integers(1, 2)) for _ in shape)}),
    ):
        assert_kernel_equals_reference(*one_node(op, [x], attributes))
    narrow = np.ascontiguousarray(np.take(x, [0], axis=axis))
    assert_kernel_equals_reference(*one_node("expand", [narrow], {"shape": shape}))
    assert_kernel_equals_reference(*one_node("cat", [x, narrow, x], {"axis": axis}))
    indices = rng.integers(0, size, data.draw(st.sampled_from([(), (3,), (2, 2)])))
    assert_kernel_equals_reference(*one_node("gather", [x, Parameter(np.asarray(indices, np.int64))], {"axis": axis}))
