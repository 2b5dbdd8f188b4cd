"""Element-wise ops on one or more tensors with NumPy broadcasting. A scalar operand is a parameter of shape []."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hqc.ir.op import Array, Attr, Attributes, Bounds, OpDef, OperandTypes, Range, Trait, all_ranges, op
from hqc.ir.ops._shapes import broadcast, first, present, same_as_first
from hqc.ir.types import DType, TensorType


def _binary(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    a, b = first(types), present(types, 1)
    return [a.with_shape(broadcast(a.sizes, b.sizes))]


def _arithmetic(
    name: str, doc: str, function: Callable[[Any, Any], Any], *traits: Trait, bounds: Bounds | None = None
) -> OpDef:
    def compute(arrays: Sequence[Any], attributes: Attributes) -> Array:
        return np.asarray(function(arrays[0], arrays[1]))

    return op(name, operands="a, b", traits={Trait.ELEMENTWISE, *traits}, compute=compute, bounds=bounds, doc=doc)(_binary)


def _larger(ranges: Sequence[Range | None], attributes: Attributes) -> Range | None:
    a, b = ranges
    return None if a is None or b is None else (max(a[0], b[0]), max(a[1], b[1]))


def _smaller(ranges: Sequence[Range | None], attributes: Attributes) -> Range | None:
    a, b = ranges
    return None if a is None or b is None else (min(a[0], b[0]), min(a[1], b[1]))


def _power(a: Array, b: Array) -> Array:
    """Powers of reals in float64; those of integers, whose negative powers are 0 or +-1, as torch rounds them to zero."""
    if a.dtype.kind == "f":
        return np.asarray(np.power(a.astype(np.float64), b.astype(np.float64)))
    exact = np.power(a, np.maximum(b, 0))
    return np.asarray(np.where(np.asarray(b) < 0, np.trunc(np.power(a.astype(np.float64), b.astype(np.float64))), exact))


add = _arithmetic("add", "`a + b`.", np.add, Trait.SUM)
sub = _arithmetic("sub", "`a - b`.", np.subtract)
mul = _arithmetic("mul", "`a * b`.", np.multiply)
div = _arithmetic("div", "`a / b`.", np.true_divide, Trait.SINGULAR)
maximum = _arithmetic("maximum", "The larger of a and b.", np.maximum, Trait.SELECTS, bounds=_larger)
minimum = _arithmetic("minimum", "The smaller of a and b.", np.minimum, Trait.SELECTS, bounds=_smaller)
pow_ = _arithmetic("pow", "`a^b`.", _power, Trait.SINGULAR)


def _comparison(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    return [_binary(types, attributes)[0].with_dtype(DType.BOOL)]


_COMPARISON = {Trait.ELEMENTWISE, Trait.INTEGER_RESULT, Trait.SELECTS}


def _compare(name: str, doc: str, function: Callable[[Any, Any], Any]) -> OpDef:
    def compute(arrays: Sequence[Any], attributes: Attributes) -> Array:
        return np.asarray(function(arrays[0], arrays[1]))

    return op(name, operands="a, b", traits=_COMPARISON, compute=compute, doc=doc)(_comparison)


equal = _compare("equal", "`a == b`.", np.equal)
greater = _compare("greater", "`a > b`.", np.greater)
less = _compare("less", "`a < b`.", np.less)
greater_equal = _compare("greater_equal", "`a >= b`.", np.greater_equal)
less_equal = _compare("less_equal", "`a <= b`.", np.less_equal)
logical_and = _compare("logical_and", "Both hold.", np.logical_and)
logical_or = _compare("logical_or", "At least one holds.", np.logical_or)
logical_not = op(
    "logical_not",
    operands="x",
    traits=_COMPARISON,
    compute=lambda arrays, a: np.asarray(np.logical_not(arrays[0])),
    doc="Does not hold.",
)(same_as_first)


@op(
    "where",
    operands="condition, a, b",
    traits={Trait.ELEMENTWISE, Trait.SELECTS},
    compute=lambda arrays, a: np.asarray(np.where(arrays[0], arrays[1], arrays[2])),
    bounds=lambda ranges, a: all_ranges(ranges[1:], a),
)
def where(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`a` where `condition` (boolean) holds, else `b`."""
    condition, a, b = first(types), present(types, 1), present(types, 2)
    return [a.with_shape(broadcast(condition.sizes, a.sizes, b.sizes))]


@op(
    "cast",
    operands="x",
    attributes=(Attr("dtype", "dtype", required=True),),
    traits={Trait.ELEMENTWISE, Trait.SELECTS},
    compute=lambda arrays, a: arrays[0].astype(a["dtype"].numpy),
)
def cast(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Conversion to another element type, as torch and NumPy do it."""
    return [first(types).with_dtype(attributes["dtype"])]
