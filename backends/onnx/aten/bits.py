"""Logic on the bits of integers where one side is constant, in arithmetic: opset 11 has no operations on bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.backends.onnx.aten.calls import Call
from hqc.backends.onnx.aten.writer import CallWriter, NoFormError
from hqc.ir import DType, Value

_BITS = 62
"""Bits of a mask: its arithmetic takes the power of two above it, and int64 holds 2^62."""


def emit(c: Call, w: CallWriter, op_type: str) -> Value:
    """`op_type`: And, Or, Xor or Not. `NoFormError` where both sides depend on the data, and for masks of 63 bits."""
    if op_type == "Not":
        return w.cast(_inverted(c, w), c.dtype)
    sides = [c["self"], c["other"]]
    known = [_constant(w, side) for side in sides]
    mask = known[1] if known[1] is not None else known[0]
    if mask is None or _magnitude(mask).max(initial=0) >> _BITS:
        raise NoFormError(f"aten.{c.target} on integers works on their bits, which opset 11 cannot")
    x = w.value(sides[0] if known[1] is not None else sides[1], DType.INT64)
    common = _common(w, x, mask)
    if op_type != "And":  # both sides, less what they share: once, or twice
        both = w.op("add", x, w.const(mask, DType.INT64))
        common = w.op("sub", both, common if op_type == "Or" else w.op("add", common, common))
    return w.expand(w.cast(common, c.dtype), c.shape)


def _constant(w: CallWriter, side: Any) -> npt.NDArray[np.int64] | None:
    if isinstance(side, (bool, int)):
        return np.array(side, np.int64)
    array = w.array(side)
    return None if array is None else array.astype(np.int64)


def _inverted(c: Call, w: CallWriter) -> Value:
    """`-1 - x` in two's complement; from the largest number where the type has no negative ones."""
    limits = np.iinfo(c.dtype.numpy)
    return w.op("sub", w.const(limits.max if limits.min == 0 else -1, DType.INT64), w.value(c["self"], DType.INT64))


def _magnitude(mask: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.where(mask < 0, ~mask, mask)


def _common(w: CallWriter, x: Value, mask: npt.NDArray[np.int64]) -> Value:
    """`x & mask`. The bits from a to b of x are `x mod 2^b - x mod 2^a`; a negative mask takes away what its complement has in common."""
    total = w.op("mul", x, w.const(mask < 0, DType.INT64))
    for power in range(1, _BITS + 1):
        below, here = (_magnitude(mask) >> (power - 1)) & 1, (_magnitude(mask) >> power) & 1
        factor = np.where(mask < 0, here - below, below - here)
        if factor.any():
            rest = w.onnx("Mod", x, w.const(2**power, DType.INT64), type=x.type)  # with the divisor's sign: never negative
            total = w.op("add", total, w.op("mul", rest, w.const(factor, DType.INT64)))
    return total
