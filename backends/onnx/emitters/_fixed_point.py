"""Exact integer arithmetic in opset-11 ops: requantization in float64, convolutions in float32 within proven bounds.

Opset 11 has no signed BitShift, no integer Clip, Max or MaxPool, and its integer Div truncates. float64 holds every integer below
2^53, a product with a power of two is exact and Floor is the arithmetic shift, so accumulators are float64 here. ConvInteger
would be shorter, but on x86 without VNNI onnxruntime saturates its 16-bit partial sums; a float32 convolution is exact as long as
all partial sums stay below 2^24, which the constant weights prove.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.arithmetic import bounds
from hqc.backends.onnx.builder import ELEMENT_TYPES, Builder
from hqc.backends.onnx.emitters._operands import cast_to
from hqc.errors import ExportError
from hqc.ir import DType, Node

F64 = DType.FLOAT64
FLOAT32_EXACT = 1 << 24
Array = npt.NDArray[Any]


def wide(b: Builder, name: str, given: DType) -> str:
    """Integers as float64."""
    return cast_to(b, name, given, F64)


def real_constant(b: Builder, array: npt.ArrayLike, what: str = "constant") -> str:
    return b.constant(array, np.float64, what)


def shifted_down(b: Builder, x: str, shift: npt.NDArray[np.int64]) -> str:
    """`x >> shift` of float64 integers (`<<` where negative)."""
    if not shift.any():
        return x
    return b("Floor", b("Mul", x, real_constant(b, np.ldexp(1.0, -shift), "shift")))


def rounded_shift(b: Builder, x: str, shift: npt.NDArray[np.int64]) -> str:
    """`rsr(x, shift)` of float64 integers."""
    half = np.where(shift > 0, np.ldexp(1.0, np.maximum(shift, 1) - 1), 0.0)
    if half.any():
        x = b("Add", x, real_constant(b, half, "half"))
    return shifted_down(b, x, shift)


def saturated(b: Builder, x: str, low: int, high: int) -> str:
    """Clip of float64 integers."""
    return b("Min", b("Max", x, real_constant(b, low)), real_constant(b, high))


def rows(node: Node, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """A requant operand's rows M, p, S, each reshaped to `shape` when it is not per tensor: `[3]` or `[3, *shape]`."""
    value = node.operand(name)
    if value is None or value.array is None:
        raise ExportError(f"{node.name}: operand {name} of {node.op.name} must be a constant")
    array = np.asarray(value.array, np.int64)
    return array if array.ndim == 1 else array.reshape(3, *shape)


def scaled_residual(b: Builder, x: str, params: npt.NDArray[np.int64]) -> str:
    """`rsr(x * M, S)`."""
    return rounded_shift(b, b("Mul", x, real_constant(b, params[0].astype(np.float64), "multiplier")), params[2])


def requantized(b: Builder, acc: str, mode: str, params: npt.NDArray[np.int64] | None, bits: int) -> str:
    """`hqc.arithmetic.requantize` of a float64 accumulator; the result is float64, saturated to `bits`."""
    if mode in ("none", "clip"):
        return saturated(b, acc, *bounds(32 if mode == "none" else bits))
    assert params is not None
    multiplier, pre, post = params
    if mode == "shift":
        return saturated(b, shifted_down(b, acc, post), *bounds(bits))
    middle = saturated(b, shifted_down(b, acc, pre), *bounds(16 if mode == "multiply" else 32))
    if mode == "multiply":
        product = b("Mul", middle, real_constant(b, multiplier, "multiplier"))
        return saturated(b, rounded_shift(b, product, post - pre), *bounds(bits))
    return saturated(b, _wide_product(b, middle, multiplier, post - pre), *bounds(bits))


def _wide_product(b: Builder, middle: str, multiplier: npt.NDArray[np.int64], shift: npt.NDArray[np.int64]) -> str:
    """`rsr(middle * multiplier, shift)` in 64-bit integers: 62-bit products exceed float64."""
    product = b("Mul", cast_to(b, middle, F64, DType.INT64), b.constant(multiplier, np.int64, "multiplier"))
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    total = b("Add", product, b.constant(half, np.int64, "half"))
    divisor = b.constant(np.int64(1) << shift, np.int64, "divisor")
    quotient = b("Div", total, divisor)  # towards zero; one less where the remainder is negative
    remainder = b("Sub", total, b("Mul", quotient, divisor))
    borrow = b("Cast", b("Less", remainder, b.scalar(0, DType.INT64)), to=ELEMENT_TYPES[DType.INT64])
    return cast_to(b, b("Sub", quotient, borrow), DType.INT64, F64)


def finished(b: Builder, node: Node, result: str) -> str:
    """The fused clip, and the conversion to the op's dtype."""
    dtype, attributes = node.attributes["dtype"], node.attributes
    low, high = max(dtype.qmin, attributes["clip_min"]), min(dtype.qmax, attributes["clip_max"])
    if (low, high) != (dtype.qmin, dtype.qmax):
        result = saturated(b, result, low, high)
    return b("Cast", result, to=ELEMENT_TYPES[dtype])


# --- convolutions ----------------------------------------------------------------------------------------------------


def _pieces(weight: npt.NDArray[np.int8], output_axis: int, magnitude: int) -> list[npt.NDArray[np.int8]]:
    """Weights that sum to `weight`, each with float32-exact accumulators for inputs up to `magnitude`."""
    flat = np.moveaxis(weight, output_axis, 0).reshape(weight.shape[output_axis], -1)
    cost = np.abs(flat.astype(np.int64)).max(axis=0) * magnitude
    if int((np.abs(flat.astype(np.int64)).sum(axis=1) * magnitude).max(initial=0)) <= FLOAT32_EXACT:
        return [weight]
    piece = np.zeros(cost.shape, np.int64)
    total, number = 0, 0
    for index, item in enumerate(cost):
        if total + int(item) > FLOAT32_EXACT:
            total, number = 0, number + 1
        total += int(item)
        piece[index] = number
    moved = (weight.shape[output_axis], *(size for axis, size in enumerate(weight.shape) if axis != output_axis))
    return [
        np.ascontiguousarray(np.moveaxis(np.where(piece == i, flat, 0).astype(np.int8).reshape(moved), 0, output_axis))
        for i in range(number + 1)
    ]


def convolved(
    b: Builder, op: str, x: str, dtype: DType, weight: npt.NDArray[np.int8], output_axis: int, options: dict[str, Any]
) -> str:
    """The exact accumulator, float64, of `op` (Conv or ConvTranspose) over integers."""
    if dtype is DType.INT8:
        return _convolved(b, op, cast_to(b, x, dtype, DType.FLOAT32), 128, weight, output_axis, options)
    # x = 256 * high + low, high signed, low in 0 .. 255
    whole = cast_to(b, x, dtype, DType.FLOAT32)
    high = b("Floor", b("Mul", whole, b.scalar(1 / 256)))
    low = b("Sub", whole, b("Mul", high, b.scalar(256)))
    upper = _convolved(b, op, high, 128, weight, output_axis, options)
    lower = _convolved(b, op, low, 255, weight, output_axis, options)
    return b("Add", b("Mul", upper, real_constant(b, 256)), lower)


def _convolved(
    b: Builder, op: str, x: str, magnitude: int, weight: npt.NDArray[np.int8], output_axis: int, options: dict[str, Any]
) -> str:
    total = None
    for piece in _pieces(weight, output_axis, magnitude):
        kernel = b("Cast", b.constant(piece, np.int8, "weight"), to=ELEMENT_TYPES[DType.FLOAT32])
        part = cast_to(b, b(op, x, kernel, **options), DType.FLOAT32, F64)
        total = part if total is None else b("Add", total, part)
    assert total is not None
    return total
