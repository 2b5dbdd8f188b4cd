"""Literals of IR text: element types, numbers, lists, and the arrays they make."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.ir.lexer import Cursor
from hqc.ir.types import DType, TensorType

DTYPES = {dtype.value: dtype for dtype in DType}


def read_dtype(cursor: Cursor) -> DType:
    token = cursor.peek()
    if token not in DTYPES:
        cursor.fail(f"expected an element type ({', '.join(DTYPES)}), found {cursor.found()}")
    cursor.index += 1
    return DTYPES[token]


def read_bool(cursor: Cursor) -> bool:
    if cursor.accept("true"):
        return True
    if cursor.accept("false"):
        return False
    cursor.fail(f"expected true or false, found {cursor.found()}")


DIGITS = 400
"""Characters of one number; the longest float64 has fewer."""
ELEMENTS = 1 << 26
"""Elements of an array that a text asks for without giving them: `#random`, or one number for all."""


def whole(cursor: Cursor, text: str) -> int:
    """An integer of a list; fails for one that no shape or weight can be."""
    if len(text) > DIGITS:
        cursor.fail(f"a number of {len(text)} digits")
    try:
        return int(text)
    except ValueError:
        cursor.fail(f"expected a whole number, found {text!r}")


def read_number(cursor: Cursor) -> int | float:
    """A number as Python reads it: an int when it is written as one."""
    token = cursor.peek()
    if len(token) > DIGITS:
        cursor.fail(f"expected a number, found one of {len(token)} digits" if token[-1:].isdigit() else "expected a number")
    try:
        number: int | float = int(token)
    except ValueError:
        try:
            number = float(token)
        except ValueError:
            cursor.fail(f"expected a number, found {cursor.found()}")
    cursor.index += 1
    return number


def read_integer(cursor: Cursor, what: str) -> int:
    number = read_number(cursor)
    if not isinstance(number, int):
        cursor.fail(f"expected {what}, a whole number, found {number!r}", cursor.index - 1)
    return number


def read_floats(cursor: Cursor) -> list[float]:
    """A flat list of numbers that float64 can hold."""
    start = cursor.index
    return [_as_float(cursor, number, start) for number in read_numbers(cursor)]


def read_float(cursor: Cursor) -> float:
    """A number that float64 can hold."""
    start = cursor.index
    return _as_float(cursor, read_number(cursor), start)


def _as_float(cursor: Cursor, number: int | float, index: int) -> float:
    try:
        return float(number)
    except OverflowError:
        cursor.fail("a number beyond what float64 holds", index)


def read_integers(cursor: Cursor, what: str) -> list[int]:
    """A flat list of whole numbers, such as the sizes of a shape."""
    start = cursor.index
    numbers = read_numbers(cursor)
    for number in numbers:
        if not isinstance(number, int):
            cursor.fail(f"expected {what}, whole numbers, found {number!r}", start)
    return [int(number) for number in numbers]


def read_numbers(cursor: Cursor) -> list[int | float]:
    """A flat list of numbers."""
    token = cursor.peek()
    if len(token) > 1 and token[0] == "[":
        cursor.index += 1
        return [whole(cursor, item.strip()) for item in token[1:-1].split(",") if item.strip()]
    if not cursor.accept("["):
        cursor.fail(f"expected a list of numbers such as [1,2], found {cursor.found()}")
    numbers = [read_number(cursor)]
    while not cursor.accept("]"):
        cursor.expect(",", "a number")
        numbers.append(read_number(cursor))
    return numbers


def _nested(cursor: Cursor) -> Any:
    """A number, a truth value, or a list of these or of lists."""
    token = cursor.peek()
    if token in ("true", "false"):
        return read_bool(cursor)
    if token[:1] != "[":
        return read_number(cursor)
    if len(token) > 1:
        return read_numbers(cursor)
    cursor.skip()
    items = [_nested(cursor)]
    while not cursor.accept("]"):
        cursor.expect(",", "an element")
        items.append(_nested(cursor))
    return items


def read_constant(cursor: Cursor, type: TensorType | None) -> npt.NDArray[Any]:
    """Elements written out: a number fills the whole shape, a flat list takes the declared shape. Default type f32."""
    start = cursor.index
    nested = _nested(cursor)
    dtype = DType.FLOAT32 if type is None else type.dtype
    try:
        exact = np.array(nested)
        with np.errstate(over="ignore"):
            # NumPy 1 wraps integers that do not fit, with a warning of its own; they are compared below
            whole = exact.dtype.kind == "i" and not dtype.is_float
            array = exact.astype(dtype.numpy) if whole else np.array(nested, dtype.numpy)
    except (ValueError, OverflowError, TypeError) as error:
        cursor.fail(f"these elements do not make an array of {dtype.value}: {error}", start)
    if not dtype.is_float and array.size and not (array == exact).all():
        cursor.fail(f"these elements do not fit {dtype.value}", start)
    if type is None or type.shape is None or array.shape == type.shape:
        return array
    if array.ndim == 0:
        _check_size(cursor, type.shape, start)
        return np.full(type.shape, array)
    return array.reshape(type.shape) if array.size == math.prod(type.shape) and array.ndim == 1 else array


def read_random(cursor: Cursor, type: TensorType | None) -> npt.NDArray[Any]:
    """`#random(seed[, shape])`: standard normal for floats; the whole range of i8, u8 and i16, [-1000, 1000) of wider types."""
    cursor.expect("(", "#random")
    seed = read_integer(cursor, "a seed")
    if seed < 0:
        cursor.fail("a seed is not negative", cursor.index - 1)
    shape = tuple(read_integers(cursor, "the sizes")) if cursor.accept(",") else (type.shape if type else None)
    if shape is None:
        cursor.fail("#random needs a shape: #random(seed, [..]), or a type before the `=`")
    cursor.expect(")", "the shape")
    _check_size(cursor, shape, cursor.index - 1)
    dtype = DType.FLOAT32 if type is None else type.dtype
    generator = np.random.default_rng(seed)
    if dtype.is_float:
        return generator.standard_normal(shape).astype(dtype.numpy)
    if dtype is DType.BOOL:
        return generator.integers(0, 2, shape).astype(bool)
    low, high = (dtype.qmin, dtype.qmax + 1) if dtype.bits <= 16 else (-1000, 1000)
    return generator.integers(low, high, shape).astype(dtype.numpy)


def _check_size(cursor: Cursor, shape: tuple[int, ...], index: int) -> None:
    """Fails for a shape that is none, or that no text may ask for."""
    if any(size < 0 for size in shape):
        cursor.fail(f"a shape has no negative sizes, found {list(shape)}", index)
    if math.prod(shape) > ELEMENTS:
        cursor.fail(
            f"an array of shape {list(shape)} has {math.prod(shape):,} elements; a text may ask for {ELEMENTS:,}", index
        )
