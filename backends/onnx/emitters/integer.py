"""The ops of the integer stage, with the simulator's bits, in standard opset-11 ops."""

from __future__ import annotations

import numpy as np

from hqc import resampling
from hqc.backends.onnx.builder import ELEMENT_TYPES, Builder
from hqc.backends.onnx.emitters._fixed_point import (
    F64,
    convolved,
    finished,
    real_constant,
    requantized,
    rows,
    saturated,
    scaled_residual,
    shifted_down,
    wide,
)
from hqc.backends.onnx.emitters._operands import cast_to, constant_operand, operand_shape, shapes, type_of
from hqc.backends.onnx.emitters.conv import window
from hqc.backends.onnx.emitters.pooling import adaptive_windows, reduce_windows, trailing_pads
from hqc.backends.onnx.emitters.reduction import along_last
from hqc.backends.onnx.registry import emitter
from hqc.ir import DType, Node


def _wide(node: Node, b: Builder, index: int) -> str:
    return wide(b, b.operand(node, index), type_of(node, index))


def _result(node: Node, b: Builder, acc: str, channels: tuple[int, ...] = ()) -> str:
    """Requantize a float64 accumulator by the node's `requant`, clip, convert. `channels`: shape of per-channel rows."""
    mode = node.attributes["mode"]
    params = rows(node, "requant", channels) if node.operand("requant") is not None else None
    return finished(b, node, requantized(b, acc, mode, params, node.attributes["dtype"].bits))


# --- multiply-accumulate -------------------------------------------------------------------------------------------------


def _accumulated(node: Node, b: Builder, acc: str, channels: tuple[int, ...]) -> str:
    """Bias and residual added, then the result; `channels` is the shape in which per-channel constants broadcast."""
    if node.operand("bias") is not None:
        acc = b("Add", acc, real_constant(b, constant_operand(node, "bias").reshape(channels), "bias"))
    residual = node.operand("residual")
    if residual is not None:
        params = rows(node, "residual_requant", channels)
        acc = b("Add", acc, scaled_residual(b, wide(b, b.read(residual), residual.type.dtype), params))
    return _result(node, b, acc, channels)


@emitter("int_conv2d")
def int_conv2d(node: Node, b: Builder) -> str:
    acc = convolved(b, "Conv", b.operand(node, 0), type_of(node), constant_operand(node, "weight"), 0, window(node))
    return _accumulated(node, b, acc, (-1, 1, 1))


@emitter("int_conv_transpose2d")
def int_conv_transpose2d(node: Node, b: Builder) -> str:
    options = {**window(node), "output_padding": list(node.attributes["output_padding"])}
    acc = convolved(b, "ConvTranspose", b.operand(node, 0), type_of(node), constant_operand(node, "weight"), 1, options)
    return _accumulated(node, b, acc, (-1, 1, 1))


@emitter("int_linear")
def int_linear(node: Node, b: Builder) -> str:
    """MatMul in float64, exact below 2^53."""
    weight = b.constant(constant_operand(node, "weight").T, np.int8, "weight")
    acc = b("MatMul", _wide(node, b, 0), cast_to(b, weight, DType.INT8, F64))
    return _accumulated(node, b, acc, (-1,))


@emitter("int_matmul")
def int_matmul(node: Node, b: Builder) -> str:
    return _result(node, b, b("MatMul", _wide(node, b, 0), _wide(node, b, 1)))


# --- element-wise --------------------------------------------------------------------------------------------------------


def _times(b: Builder, x: str, factor: int) -> str:
    return x if factor == 1 else b("Mul", x, real_constant(b, factor, "factor"))


@emitter("int_add")
def int_add(node: Node, b: Builder) -> str:
    first = _times(b, _wide(node, b, 0), node.attributes["k_a"])
    return _result(node, b, b("Add", first, _times(b, _wide(node, b, 1), node.attributes["k_b"])))


@emitter("int_mul")
def int_mul(node: Node, b: Builder) -> str:
    return _result(node, b, b("Mul", _wide(node, b, 0), _wide(node, b, 1)))


@emitter("int_div")
def int_div(node: Node, b: Builder) -> str:
    """`floor(a / b * ratio + 0.5)`; infinities saturate, 0/0 gives 0."""
    first, second = _wide(node, b, 0), _wide(node, b, 1)
    scaled = b("Mul", b("Div", first, second), real_constant(b, node.attributes["ratio"], "ratio"))
    value = b("Floor", b("Add", scaled, real_constant(b, 0.5, "half")))
    zero = real_constant(b, 0.0, "zero")
    undefined = b("And", b("Equal", first, zero), b("Equal", second, zero))
    dtype = node.attributes["dtype"]
    return finished(b, node, saturated(b, b("Where", undefined, zero, value), dtype.qmin, dtype.qmax))


@emitter("int_requantize")
def int_requantize(node: Node, b: Builder) -> str:
    return _result(node, b, _wide(node, b, 0))


@emitter("int_lut")
def int_lut(node: Node, b: Builder) -> str:
    """Gather from the table, indices from 0."""
    dtype = type_of(node)
    index = b("Sub", cast_to(b, b.operand(node, 0), dtype, DType.INT32), b.scalar(dtype.qmin, DType.INT32))
    return b("Gather", b.operand(node, 1), index, axis=0)


@emitter("int_prelu")
def int_prelu(node: Node, b: Builder) -> str:
    x, zero = _wide(node, b, 0), real_constant(b, 0.0, "zero")
    mode, bits = node.attributes["mode"], node.attributes["dtype"].bits
    channels = (-1, *(1,) * (len(operand_shape(node)) - 2))
    weight = constant_operand(node, "weight").reshape(-1)
    slopes = real_constant(b, weight.reshape(channels) if weight.size > 1 else weight[0], "slopes")
    positive = requantized(b, b("Max", x, zero), mode, rows(node, "requant_positive", channels), bits)
    product = b("Mul", slopes, b("Min", x, zero))
    negative = requantized(b, product, mode, rows(node, "requant_negative", channels), bits)
    dtype = node.attributes["dtype"]
    return finished(b, node, saturated(b, b("Add", positive, negative), dtype.qmin, dtype.qmax))


# --- pooling and reductions ----------------------------------------------------------------------------------------------


@emitter("int_avg_pool2d")
def int_avg_pool2d(node: Node, b: Builder) -> str:
    """Window sums are a depthwise convolution with ones; padding and overhang count as zeros."""
    channels, attributes = operand_shape(node)[1], node.attributes
    options = {
        "kernel_shape": list(attributes["kernel"]),
        "strides": list(attributes["stride"]),
        "pads": [*attributes["padding"][:2], *trailing_pads(node)],
        "group": channels,
    }
    ones = np.ones((channels, 1, *attributes["kernel"]), np.int8)
    total = convolved(b, "Conv", b.operand(node, 0), type_of(node), ones, 0, options)
    if attributes["gain"]:
        product = b("Mul", total, real_constant(b, attributes["gain"], "gain"))
        gained = requantized(b, shifted_down(b, product, np.array(9)), "clip", None, attributes["dtype"].bits)
        return finished(b, node, gained)
    return _result(node, b, total, shapes(node)[1][2:])


@emitter("int_adaptive_avg_pool2d")
def int_adaptive_avg_pool2d(node: Node, b: Builder) -> str:
    x, (given, result) = _wide(node, b, 0), shapes(node)
    for axis in (2, 3):
        x = reduce_windows(b, x, axis, adaptive_windows(given[axis], result[axis]), "ReduceSum")
    return _result(node, b, x, result[2:])


@emitter("int_sum")
def int_sum(node: Node, b: Builder) -> str:
    rank = len(operand_shape(node))
    axes = sorted(axis % rank for axis in node.attributes["axes"]) or list(range(rank))
    total = b("ReduceSum", _wide(node, b, 0), axes=axes, keepdims=int(node.attributes["keepdims"]))
    return _result(node, b, total)


@emitter("int_softmax")
def int_softmax(node: Node, b: Builder) -> str:
    """`(table[max - x] << 31) // sum` in 64-bit integers, all positive, so that truncating division is floor."""
    dtype = type_of(node)
    table = b.constant(constant_operand(node, "table"), np.int64, "table")

    def probabilities(x: str) -> str:
        axis = len(operand_shape(node)) - 1
        difference = b("Sub", b("ReduceMax", x, axes=[axis], keepdims=1), x)
        exponential = b("Gather", table, difference, axis=0)
        total = b("ReduceSum", exponential, axes=[axis], keepdims=1)
        return b("Div", b("Mul", exponential, b.scalar(1 << 31, DType.INT64)), total)

    x = cast_to(b, b.operand(node, 0), dtype, DType.INT32)
    result = along_last(b, x, node.attributes["axis"], operand_shape(node), probabilities)
    return _result(node, b, cast_to(b, result, DType.INT64, F64))


# --- resize --------------------------------------------------------------------------------------------------------------


@emitter("int_resize2d")
def int_resize2d(node: Node, b: Builder) -> str:
    """Gathers at the fixed-point coordinates; bilinear sums two weighted taps per axis."""
    x, dtype, (given, result) = b.operand(node, 0), type_of(node), shapes(node)
    attributes = node.attributes
    bilinear = attributes["mode"] == "bilinear"
    if bilinear:
        x = wide(b, x, dtype)
    for axis in (3, 2):
        first, second, weight = resampling.resize_taps(
            given[axis],
            result[axis],
            fraction_bits=attributes["fraction_bits"],
            mode=attributes["mode"],
            align_corners=attributes["align_corners"],
            factor=attributes["scale_factor"][axis - 2] if attributes["scale_factor"] else None,
        )
        near = b("Gather", x, b.constant(first, np.int64, "first"), axis=axis)
        if not bilinear:
            x = near
            continue
        far = b("Gather", x, b.constant(second, np.int64, "second"), axis=axis)
        shape = (-1, 1) if axis == 2 else (-1,)
        near = b("Mul", near, real_constant(b, (256 - weight).reshape(shape), "near_weight"))
        x = b("Add", near, b("Mul", far, real_constant(b, weight.reshape(shape), "far_weight")))
    return b("Cast", shifted_down(b, x, np.array(16)), to=ELEMENT_TYPES[dtype]) if bilinear else x
