"""Inverses and linear systems of small matrices in closed form, triangular systems of any size: opset 11 has none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from hqc.backends.onnx.aten.calls import Call, shape_of
from hqc.backends.onnx.aten.products import product
from hqc.backends.onnx.aten.writer import CallWriter, NoFormError, aten, shape
from hqc.ir import DType, Value

Element = Callable[[int, int], Value]
F64 = DType.FLOAT64
_LARGEST = 4
"""Rows of a matrix whose closed form is short and exact enough in float32."""


@aten("inverse.default", "linalg_inv.default")
def inverse(c: Call, w: CallWriter) -> Value:
    return _inverse(c, w, w.value(c["self"] if "self" in c.arguments else c["A"]))


@aten("linalg_inv_ex.default")
def inverse_and_error(c: Call, w: CallWriter) -> tuple[Value, Value]:
    """The inverse, and 0 for its error: a closed form has no step that could fail."""
    error = c.results[1]
    return _inverse(c, w, w.value(c["A"])), w.const(np.zeros(shape_of(error)), error.type.dtype)


@aten("linalg_solve.default")
def solve(c: Call, w: CallWriter) -> Value:
    """`A^-1 B`, or `B A^-1`; a B with one axis less than A, and A's sizes before it, is a vector, as torch reads it."""
    inverted, b = _inverse(c, w, w.value(c["A"])), w.value(c["B"])
    vector = shape(b) == shape(inverted)[:-1]
    if vector:
        b = w.reshape(b, [*shape(b), 1])
    return w.reshape(product(w, inverted, b) if c["left"] or vector else product(w, b, inverted), c.shape)


@aten("linalg_solve_triangular.default")
def solve_triangular(c: Call, w: CallWriter) -> Value:
    """`A^-1 B`, or `B A^-1`. A is `D (I - N)` with D its diagonal and N strictly triangular, of which the n-th power is 0: the solution is
    `(I + N) (I + N^2) (I + N^4) ... D^-1 B`, a product for every bit of n. In float64, as powers may be large that cancel.
    """
    a, b = w.value(c["self"], F64), w.value(c["B"], F64)
    upper = bool(c["upper"])
    if not c["left"]:  # the transposed system
        a, b, upper = _turned(w, a), _turned(w, b), not upper
    size = shape(a)[-1]
    strict = np.triu(np.ones((size, size), np.bool_), 1) if upper else np.tril(np.ones((size, size), np.bool_), -1)
    zero = w.const(0.0, F64)
    power = w.op("neg", w.op("where", w.const(strict, DType.BOOL), a, zero))
    result = b
    if not c["unitriangular"]:
        diagonal = w.op(
            "sum", w.op("where", w.const(np.eye(size), DType.BOOL), a, zero), axes=(len(shape(a)) - 1,), keepdims=True
        )
        power, result = w.op("div", power, diagonal), w.op("div", result, diagonal)
    for step in range((size - 1).bit_length()):
        power = power if step == 0 else product(w, power, power)
        result = w.op("add", result, product(w, power, result))
    return w.cast(w.expand(result if c["left"] else _turned(w, result), c.shape), c.dtype)


def _turned(w: CallWriter, x: Value) -> Value:
    """Its last two axes change places."""
    rank = len(shape(x))
    return w.transpose(x, (*range(rank - 2), rank - 1, rank - 2))


def _inverse(c: Call, w: CallWriter, x: Value) -> Value:
    """The adjugate over the determinant; the signed minors of all places are computed at once, by picking elements."""
    *lead, size, _ = shape(x)
    if size > _LARGEST:
        raise NoFormError(f"no ONNX form of aten.{c.target} of {size} rows is known, only of up to {_LARGEST}")
    flat = w.reshape(x, [*lead, size * size])
    axis = len(lead)
    rows, columns = np.divmod(np.arange(size * size), size)
    others = np.array([[index for index in range(size) if index != left] for left in range(size)], dtype=np.int64)

    def element(row: int, column: int) -> Value:
        """That element of the minor of every place."""
        place: npt.NDArray[np.int64] = others[rows, row] * size + others[columns, column]
        return w.gather(flat, place, axis)

    if size == 1:
        return w.op("div", w.const(1.0, c.dtype), x)
    signs = np.where((rows + columns) % 2 == 0, 1.0, -1.0)
    cofactors = w.op("mul", _determinant(w, element, range(size - 1), range(size - 1)), w.const(signs, c.dtype))
    first = w.op("mul", w.slice(flat, axis, 0, size), w.slice(cofactors, axis, 0, size))
    determinant = w.op("sum", first, axes=(axis,), keepdims=True)
    turned = w.gather(cofactors, columns * size + rows, axis)
    return w.reshape(w.op("div", turned, determinant), shape(x))


def _determinant(w: CallWriter, element: Element, rows: Sequence[int], columns: Sequence[int]) -> Value:
    """By the first row."""
    if len(rows) == 1:
        return element(rows[0], columns[0])
    total: Value | None = None
    for index, column in enumerate(columns):
        rest = [other for other in columns if other != column]
        term = w.op("mul", element(rows[0], column), _determinant(w, element, rows[1:], rest))
        total = term if total is None else w.op("sub" if index % 2 else "add", total, term)
    assert total is not None
    return total
