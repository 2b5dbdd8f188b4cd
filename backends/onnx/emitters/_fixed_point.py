"""Exact integer arithmetic in opset-11 ops: requantization in float64, convolutions in float32 within proven bounds.

Opset 11 has no signed BitShift, no integer Clip, Max or MaxPool, and its integer Div truncates. float64 holds every integer below
2^53, a product with a power of two is exact and Floor is the arithmetic shift, so accumulators are float64 here. ConvInteger
would be shorter, but on x86 without VNNI onnxruntime saturates its 16-bit partial sums; a float32 convolution is exact as long as
all partial sums stay below 2^24, which the constant weights prove.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.arithmetic import bounds
from hqc.backends.onnx.builder import ELEMENT_TYPES, Builder
from hqc.backends.onnx.emitters._operands import cast_to, constant_operand
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
    array = np.asarray(constant_operand(node, name), np.int64)
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


def _cost(weight: npt.NDArray[np.int8], output_axis: int, magnitude: int) -> npt.NDArray[np.int64]:
    """`max |w| * magnitude` over the output axis, in the shape of the weight without it: what a tap may add to a sum."""
    largest: npt.NDArray[np.int64] = np.abs(weight.astype(np.int16)).max(axis=output_axis).astype(np.int64) * magnitude
    return largest


def _fits(weight: npt.NDArray[np.int8], output_axis: int, magnitude: int) -> bool:
    """True when no sum of products with inputs up to `magnitude` leaves float32's exact integers."""
    taps = tuple(axis for axis in range(weight.ndim) if axis != output_axis)
    largest = int(np.abs(weight.astype(np.int16)).sum(axis=taps, dtype=np.int64).max(initial=0))
    return largest * magnitude <= FLOAT32_EXACT


def _runs(cost: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Consecutive index ranges whose costs add up to at most 2^24 each."""
    runs, start, total = [], 0, 0
    for index, item in enumerate(cost.tolist()):
        if index > start and total + item > FLOAT32_EXACT:
            runs.append((start, index))
            start, total = index, 0
        total += item
    return [*runs, (start, len(cost))]


def _by_channel(weight: npt.NDArray[np.int8], input_axis: int, magnitude: int) -> list[tuple[int, int]] | None:
    """Ranges of input channels that can each be summed exactly; None where one channel alone cannot."""
    cost = _cost(weight, 1 - input_axis, magnitude).reshape(weight.shape[input_axis], -1).sum(axis=1)
    return _runs(cost) if int(cost.max(initial=0)) <= FLOAT32_EXACT else None


def _masked(weight: npt.NDArray[np.int8], output_axis: int, magnitude: int) -> list[npt.NDArray[np.int8]]:
    """Weights of the same shape that sum to `weight`, each with exact sums: for grouped layers and huge kernels."""
    cost = _cost(weight, output_axis, magnitude)
    pieces = []
    for start, end in _runs(cost.reshape(-1)):
        mask = np.zeros(cost.size, bool)
        mask[start:end] = True
        pieces.append(np.where(np.expand_dims(mask.reshape(cost.shape), output_axis), weight, 0).astype(np.int8))
    return pieces


def convolved(
    b: Builder, op: str, x: str, dtype: DType, weight: npt.NDArray[np.int8], output_axis: int, options: dict[str, Any]
) -> str:
    """The exact accumulator, float64, of `op` (Conv or ConvTranspose) over int8 or int16."""
    whole = cast_to(b, x, dtype, DType.FLOAT32)
    if dtype is DType.INT8:
        return _convolved(b, op, whole, 128, weight, output_axis, options)
    # x = 256 * high + low, high signed, low in 0 .. 255
    high = b("Floor", b("Mul", whole, b.scalar(1 / 256)))
    low = b("Sub", whole, b("Mul", high, b.scalar(256)))
    upper = _convolved(b, op, high, 128, weight, output_axis, options)
    lower = _convolved(b, op, low, 255, weight, output_axis, options)
    return b("Add", b("Mul", upper, real_constant(b, 256)), lower)


def _convolved(
    b: Builder, op: str, x: str, magnitude: int, weight: npt.NDArray[np.int8], output_axis: int, options: dict[str, Any]
) -> str:
    """One float32 convolution where its sums fit 24 bits, else the float64 sum of several that do."""

    def part(source: str, piece: npt.NDArray[np.int8]) -> str:
        kernel = b("Cast", b.constant(piece, np.int8, "weight"), to=ELEMENT_TYPES[DType.FLOAT32])
        return cast_to(b, b(op, source, kernel, **options), DType.FLOAT32, F64)

    if _fits(weight, output_axis, magnitude):
        return part(x, weight)
    input_axis = 1 - output_axis
    ranges = _by_channel(weight, input_axis, magnitude) if options["group"] == 1 else None
    if ranges is None:
        parts = [part(x, piece) for piece in _masked(weight, output_axis, magnitude)]
    else:
        parts = []
        for start, end in ranges:
            channels = b("Slice", x, b.ints([start]), b.ints([end]), b.ints([1]))
            parts.append(part(channels, np.take(weight, range(start, end), axis=input_axis)))
    return functools.reduce(lambda total, item: b("Add", total, item), parts)
