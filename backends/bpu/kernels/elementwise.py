"""Element-wise arithmetic with NumPy broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.epilogue import Epilogue, result_bounds
from hqc.backends.bpu.kernels import (
    Array,
    KernelContext,
    Run,
    constant,
    empty_result,
    flatten,
    in_blocks,
    kernel,
    operand,
    shape_of,
)
from hqc.backends.bpu.proof import FLOAT32_EXACT, FLOAT64_EXACT
from hqc.backends.bpu.ranges import Range
from hqc.ir import Node

Combine = Callable[[Array, Array], None]
"""`combine(a, b)`: both already converted to the accumulator's dtype; leaves the accumulator in `a`, may overwrite `b`."""


def spread(x: Array, shape: tuple[int, ...]) -> Array:
    """Elements of `x` broadcast to `shape`, flat in the simulator's memory order; one element stays one."""
    if x.size == 1:
        return x.reshape(1)
    return flatten(x if x.shape == shape else np.broadcast_to(x, shape))


def _binary(node: Node, context: KernelContext, acc_range: Range, combine: Combine) -> Run:
    largest = max(map(abs, acc_range))
    dtype = np.dtype(np.float32 if largest <= FLOAT32_EXACT else np.float64 if largest <= FLOAT64_EXACT else np.int64)
    epilogue = Epilogue(constant(node, "requant"), node.attributes, channels=1, acc_range=acc_range)
    shape, out_dtype = shape_of(node.result), node.result.type.dtype.numpy
    scratch = context.workers.scratch

    def run(operands: Sequence[Any]) -> Array:
        a, b = spread(operands[0], shape), spread(operands[1], shape)
        out, flat = empty_result(shape, out_dtype)

        def block(where: slice) -> None:
            size = where.stop - where.start
            acc, other = scratch.take("acc", (size,), dtype), scratch.take("other", (size,), dtype)
            np.copyto(acc, a if a.size == 1 else a[where], casting="unsafe")
            np.copyto(other, b if b.size == 1 else b[where], casting="unsafe")
            combine(acc, other)
            epilogue.apply(acc[:, None], flat[where][:, None], scratch)

        in_blocks(context.workers, flat.size, block)
        return out

    return run


def _product_range(a: Range, b: Range) -> Range:
    ends = [x * y for x in a for y in b]
    return min(ends), max(ends)


def sum_range(node: Node, context: KernelContext) -> Range:
    """Bounds of an `int_add`'s terms as well as of their sum."""
    k_a, k_b = node.attributes["k_a"], node.attributes["k_b"]
    first = _product_range(context.ranges.of(operand(node, 0)), (k_a, k_a))
    second = _product_range(context.ranges.of(operand(node, 1)), (k_b, k_b))
    # each term is computed on its own first
    return min(0, first[0]) + min(0, second[0]), max(0, first[1]) + max(0, second[1])


@kernel("int_add")
def int_add(node: Node, context: KernelContext) -> Run:
    k_a, k_b = node.attributes["k_a"], node.attributes["k_b"]

    def combine(acc: Array, other: Array) -> None:
        np.multiply(acc, acc.dtype.type(k_a), out=acc)
        np.multiply(other, acc.dtype.type(k_b), out=other)
        np.add(acc, other, out=acc)

    return _binary(node, context, sum_range(node, context), combine)


def product_range(node: Node, context: KernelContext) -> Range:
    """Bounds of an `int_mul`'s accumulator."""
    return _product_range(context.ranges.of(operand(node, 0)), context.ranges.of(operand(node, 1)))


@kernel("int_mul")
def int_mul(node: Node, context: KernelContext) -> Run:

    def combine(acc: Array, other: Array) -> None:
        np.multiply(acc, other, out=acc)

    return _binary(node, context, product_range(node, context), combine)


@kernel("int_div")
def int_div(node: Node, context: KernelContext) -> Run:
    """`ideal`: float64, the same operations in the same order as the definition."""
    ratio, (low, high) = node.attributes["ratio"], result_bounds(node.attributes)
    shape, dtype = shape_of(node.result), node.result.type.dtype.numpy

    def run(operands: Sequence[Any]) -> Array:
        a, b = spread(operands[0], shape).astype(np.float64), spread(operands[1], shape).astype(np.float64)
        out, flat = empty_result(shape, dtype)
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = np.floor(a / b * ratio + 0.5)
        flat[...] = np.clip(np.nan_to_num(scaled, nan=0.0, posinf=high, neginf=low), low, high)
        return out

    return run


@kernel("int_requantize")
def int_requantize(node: Node, context: KernelContext) -> Run:
    x = operand(node, 0)
    low, high = context.ranges.of(x)
    requant = node.operand("requant")
    epilogue = Epilogue(
        None if requant is None else constant(node, "requant"),
        node.attributes,
        channels=1,
        acc_range=(min(0, low), max(0, high)),
    )
    exact = max(-low, high) <= FLOAT32_EXACT
    dtype = np.dtype(np.float32 if exact else np.int64)
    shape, out_dtype = shape_of(node.result), node.result.type.dtype.numpy
    scratch = context.workers.scratch

    def run(operands: Sequence[Any]) -> Array:
        source = flatten(operands[0])
        out, flat = empty_result(shape, out_dtype)

        def block(where: slice) -> None:
            acc = scratch.take("acc", (where.stop - where.start,), dtype)
            np.copyto(acc, source[where], casting="unsafe")
            epilogue.apply(acc[:, None], flat[where][:, None], scratch)

        in_blocks(context.workers, flat.size, block)
        return out

    return run
