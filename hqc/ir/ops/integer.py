"""Ops of the integer stage: what the simulator computes, with the arithmetic of docs/arithmetic.md.

Ops that only move or compare elements (reshape, cat, max pool, clamp, where, ...) keep their float declaration and take integer
types; their constants (pad value, clamp bounds) are then integers. Ops that do arithmetic are declared here.

`requant` operands are int64 parameters of shape `[3]` (per tensor), `[3, C]` (per channel) or `[3, H, W]` (per output
position): rows multiplier M, pre-shift p, post-shift S of `hqc.arithmetic.RequantParams`. `mode` says how they apply:
`multiply` (int8 result, 32-bit), `multiply64` (int16 result, 64-bit), `shift` (floor shift by S only, bernoulli), `clip` (equal
scales, other dtype), `none` (int32 accumulator is the result; no requant operand). `clip_min` / `clip_max` bound the result
(a fused activation); the defaults are the bounds of `dtype`.
"""

from __future__ import annotations

from collections.abc import Sequence

from hqc.ir.op import Attr, Attributes, InferFunction, OperandTypes, Range, Trait, first_range, op
from hqc.ir.ops._shapes import broadcast, first, present, reduced, same_as_first, sizes_of_rank
from hqc.ir.ops.conv import (
    CONV_ATTRIBUTES,
    TRANSPOSE_ATTRIBUTES,
    conv_macs,
    conv_sizes,
    conv_transpose_macs,
    conv_transpose_sizes,
    linear_sizes,
    matmul_sizes,
    matrix_macs,
)
from hqc.ir.ops.pooling import OUTPUT_SIZE, WINDOW, adaptive, pooled
from hqc.ir.ops.sampling import sampled
from hqc.ir.types import DType, TensorType

MODES = ("multiply", "multiply64", "shift", "clip", "none")
_INTEGER = {Trait.INTEGER}
_OUTPUT = (
    Attr("mode", "str", "multiply", choices=MODES),
    Attr("dtype", "dtype", DType.INT8),
    Attr("clip_min", "int", -(2**31)),
    Attr("clip_max", "int", 2**31 - 1),
)
_CONV_OPERANDS = "x, weight, bias?, requant?, residual?, residual_requant?"


def _clip(ranges: Sequence[Range | None], attributes: Attributes) -> Range:
    """`Bounds` of ops that end in a clip."""
    return attributes["clip_min"], attributes["clip_max"]


def _as_dtype(infer: InferFunction) -> InferFunction:
    def wrapped(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
        return [type.with_dtype(attributes["dtype"]) for type in infer(types, attributes)]

    wrapped.__doc__, wrapped.__module__ = infer.__doc__, infer.__module__
    return wrapped


@op(
    "int_conv2d",
    operands=_CONV_OPERANDS,
    attributes=(*CONV_ATTRIBUTES, *_OUTPUT),
    traits=_INTEGER,
    macs=conv_macs,
    bounds=_clip,
)
@_as_dtype
def int_conv2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`requantize(sum(x * w) + bias + rsr(residual * M_r, S_r))`; weight int8, bias int32 `[O]` (int64 for int16 input)."""
    return [first(types).with_shape(conv_sizes(types, attributes))]


@op(
    "int_conv_transpose2d",
    operands=_CONV_OPERANDS,
    attributes=(*TRANSPOSE_ATTRIBUTES, *_OUTPUT),
    traits=_INTEGER,
    macs=conv_transpose_macs,
    bounds=_clip,
)
@_as_dtype
def int_conv_transpose2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Transposed convolution with the accumulator and requantization of int_conv2d."""
    return [first(types).with_shape(conv_transpose_sizes(types, attributes))]


@op("int_linear", operands=_CONV_OPERANDS, attributes=_OUTPUT, traits=_INTEGER, macs=matrix_macs, bounds=_clip)
@_as_dtype
def int_linear(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`requantize(x[..., K] @ weight[O, K].T + bias)`; channel axis is the last."""
    return [first(types).with_shape(linear_sizes(types))]


@op("int_matmul", operands="a, b, requant", attributes=_OUTPUT, traits=_INTEGER, macs=matrix_macs, bounds=_clip)
@_as_dtype
def int_matmul(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Product of two activations, int32 accumulator."""
    return [first(types).with_shape(matmul_sizes(types))]


def _broadcast(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    a, b = first(types), present(types, 1)
    return [a.with_shape(broadcast(a.sizes, b.sizes))]


@op(
    "int_add",
    operands="a, b, requant",
    attributes=(Attr("k_a", "int", 1), Attr("k_b", "int", 1), *_OUTPUT),
    traits=_INTEGER,
    bounds=_clip,
)
@_as_dtype
def int_add(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`requantize(a * k_a + b * k_b)` (k_b < 0 subtracts).

    A constant `b` is an int32 parameter (int64 beside int16) already in the unit t.
    """
    return _broadcast(types, attributes)


@op("int_mul", operands="a, b, requant", attributes=_OUTPUT, traits=_INTEGER, bounds=_clip)
@_as_dtype
def int_mul(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`requantize(a * b)`."""
    return _broadcast(types, attributes)


@op(
    "int_div",
    operands="a, b",
    attributes=(Attr("ratio", "float", required=True, minimum=0), *_OUTPUT),
    traits=_INTEGER,
    bounds=_clip,
)
@_as_dtype
def int_div(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`sat(floor(a / b * ratio + 0.5))` in float64, `ratio = s_a / (s_b * s_out)`; x/0 saturates, 0/0 is 0. `ideal`."""
    return _broadcast(types, attributes)


@op("int_requantize", operands="x, requant?", attributes=_OUTPUT, traits=_INTEGER, bounds=_clip)
@_as_dtype
def int_requantize(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """The same real value on another scale or dtype."""
    return [first(types)]


@op("int_lut", operands="x, table", traits=_INTEGER, bounds=lambda ranges, a: ranges[1])
def int_lut(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`table[x - qmin(x)]`: 256 entries for int8, 65,536 for int16 operands; the table's dtype is the result's."""
    return [first(types).with_dtype(present(types, 1).dtype)]


@op("int_prelu", operands="x, weight, requant_positive, requant_negative", attributes=_OUTPUT, traits=_INTEGER, bounds=_clip)
@_as_dtype
def int_prelu(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`sat(requant(max(x, 0)) + requant(weight * min(x, 0)))`; weight int16 `[1]` or `[C]` on axis 1."""
    return [first(types)]


@op(
    "int_avg_pool2d",
    operands="x, requant?",
    attributes=(*WINDOW, Attr("count_include_pad", "bool", True), Attr("gain", "int", 0), *_OUTPUT),
    traits=_INTEGER,
    bounds=_clip,
)
@_as_dtype
def int_avg_pool2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """int32 window sum, requantized (`[3]`; `[3, H, W]` where divisors differ); `gain` g > 0: `(sum * g) >> 9` (bernoulli)."""
    return pooled(types, attributes)


@op(
    "int_adaptive_avg_pool2d",
    operands="x, requant",
    attributes=(OUTPUT_SIZE, *_OUTPUT),
    traits=_INTEGER,
    bounds=_clip,
)
@_as_dtype
def int_adaptive_avg_pool2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """int32 sum of each adaptive window, requantized per output position (`[3, H, W]`) or uniformly (`[3]`)."""
    return adaptive(types, attributes)


@op(
    "int_sum",
    operands="x, requant",
    attributes=(Attr("axes", "ints", ()), Attr("keepdims", "bool", False), *_OUTPUT),
    traits=_INTEGER,
    bounds=_clip,
)
@_as_dtype
def int_sum(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Sum over axes, requantized; a mean is a sum whose ratio holds 1/n."""
    x = first(types)
    return [x.with_shape(reduced(x.sizes, attributes["axes"], attributes["keepdims"]))]


@op(
    "int_resize2d",
    operands="x",
    attributes=(
        Attr("size", "ints", required=True, length=2, minimum=1),
        Attr("scale_factor", "floats", (), minimum=0),  # (h, w) where the sizes do not give it exactly: coordinates step by it
        Attr("mode", "str", "nearest", choices=("nearest", "bilinear")),
        Attr("align_corners", "bool", False),
        Attr("fraction_bits", "int", 16),
    ),
    traits=_INTEGER,
    bounds=first_range,  # every result is a rounded weighted mean of elements
)
def int_resize2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Fixed-point resize, docs/arithmetic.md section 8; scale and dtype are the operand's."""
    x = first(types)
    return [x.with_shape((*sizes_of_rank(x, 4)[:2], *attributes["size"]))]


def _with_zero(ranges: Sequence[Range | None], attributes: Attributes) -> Range | None:
    """`Bounds` of weighted means of the first operand's elements, some of which may be the zeros beside it."""
    return None if ranges[0] is None else (min(ranges[0][0], 0), max(ranges[0][1], 0))


@op(
    "int_grid_sample",
    operands="x, grid, table?",
    attributes=(
        Attr("mode", "str", "bilinear", choices=("bilinear", "nearest")),
        Attr("padding_mode", "str", "zeros", choices=("zeros", "border")),
        Attr("fraction_bits", "int", 8, minimum=1),
    ),
    traits=_INTEGER,
    bounds=_with_zero,
)
def int_grid_sample(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Fixed-point sampling, docs/arithmetic.md section 8; scale and dtype are the image's. `table`: int16 `[2, 2^bits]`, the coordinates
    along width and height of every integer of the grid; without it the grid holds the int16 coordinates themselves."""
    return sampled(types, attributes)


@op(
    "int_softmax",
    operands="x, table, requant",
    attributes=(Attr("axis", "int", required=True), *_OUTPUT),
    traits=_INTEGER,
    bounds=_clip,
)
@_as_dtype
def int_softmax(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`e = table[max - x]` (Q15), `(e << 31) // sum(e)`, requantized from 2^-31. The table has one entry per difference."""
    return same_as_first(types, attributes)
