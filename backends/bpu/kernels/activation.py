"""Functions of one tensor: by table, and prelu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc import arithmetic
from hqc.backends.bpu.epilogue import parameters, result_bounds
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
from hqc.ir import DType, Node


def look_up(context: KernelContext, table: Array, dtype: DType, shape: tuple[int, ...]) -> Run:
    """`table[x - qmin]`. The table is rotated so that the integer's own bits, read as unsigned, are the index."""
    rotated = np.ascontiguousarray(np.roll(table, dtype.qmin))
    unsigned = np.dtype(f"u{dtype.numpy.itemsize}")

    def run(operands: Sequence[Any]) -> Array:
        indices = np.ascontiguousarray(flatten(operands[0])).view(unsigned)
        out, flat = empty_result(shape, table.dtype)

        def block(where: slice) -> None:
            # mode="clip" skips the bounds check: no index of this type is out of range
            np.take(rotated, indices[where], mode="clip", out=flat[where])

        in_blocks(context.workers, flat.size, block)
        return out

    return run


@kernel("int_lut")
def int_lut(node: Node, context: KernelContext) -> Run:
    return look_up(context, constant(node, "table"), operand(node, 0).type.dtype, shape_of(node.result))


def prelu_results(node: Node, q: Array) -> Array:
    """What `int_prelu` makes of integers `q[..., C]`, or of anything that broadcasts with a channel's parameters on the last axis."""
    weight = constant(node, "weight").astype(np.int64).reshape(-1)
    mode, dtype = node.attributes["mode"], node.attributes["dtype"]
    positive = parameters(constant(node, "requant_positive"), mode)
    negative = parameters(constant(node, "requant_negative"), mode)
    low, high = result_bounds(node.attributes)
    q = q.astype(np.int64)
    part = arithmetic.requantize(np.maximum(q, 0), positive, dtype.bits)
    part = part + arithmetic.requantize(weight * np.minimum(q, 0), negative, dtype.bits)
    result: Array = np.clip(part, low, high).astype(dtype.numpy)
    return result


def prelu_table(node: Node) -> Array:
    """Results of an int8 operand from -128 to 127: `[256, C]`, of one channel where all have the same parameters."""
    return prelu_results(node, np.arange(-128, 128)[:, None])


@kernel("int_prelu")
def int_prelu(node: Node, context: KernelContext) -> Run:
    """All results of an 8-bit operand fit a table per channel; a 16-bit operand is computed."""
    x = operand(node, 0)
    if x.type.dtype is DType.INT8:
        table = prelu_table(node)
        channels = table.shape[1]
        if channels == 1:
            return look_up(context, table[:, 0], x.type.dtype, shape_of(node.result))
        by_byte = np.ascontiguousarray(np.roll(table, -128, axis=0)).reshape(-1)

        def run_by_channel(operands: Sequence[Any]) -> Array:
            indices = np.moveaxis(operands[0], 1, -1).view(np.uint8).astype(np.intp) * channels + np.arange(channels)
            return np.moveaxis(np.take(by_byte, indices, mode="clip"), -1, 1)

        return run_by_channel

    def run(operands: Sequence[Any]) -> Array:
        return np.moveaxis(prelu_results(node, np.moveaxis(operands[0], 1, -1)), -1, 1)

    return run
