"""Sums over axes and softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.backends.bpu.epilogue import Epilogue, parameters, requantize_exactly
from hqc.backends.bpu.kernels import Array, KernelContext, Run, constant, kernel, operand, shape_of
from hqc.ir import Node


def _axes(node: Node) -> tuple[int, ...]:
    rank = len(shape_of(operand(node, 0)))
    return tuple(axis % rank for axis in node.attributes["axes"]) or tuple(range(rank))


def sum_problem(node: Node, context: KernelContext) -> tuple[tuple[int, ...], Epilogue]:
    """The axes of an `int_sum`, and what becomes of its sums, with their range."""
    axes, source = _axes(node), operand(node, 0)
    count = math.prod(shape_of(source)[axis] for axis in axes)
    low, high = context.ranges.of(source)
    acc_range = count * min(0, low), count * max(0, high)
    return axes, Epilogue(constant(node, "requant"), node.attributes, channels=1, acc_range=acc_range)


@kernel("int_sum")
def int_sum(node: Node, context: KernelContext) -> Run:
    axes, keepdims, shape = _axes(node), node.attributes["keepdims"], shape_of(node.result)
    params = parameters(constant(node, "requant"), node.attributes["mode"])
    source = operand(node, 0)
    count = int(np.prod([shape_of(source)[axis] for axis in axes]))
    narrow = count * max(map(abs, context.ranges.of(source))) < 2**31
    dtype = np.int32 if narrow else np.int64

    def run(operands: Sequence[Any]) -> Array:
        sums = operands[0].sum(axis=axes, dtype=dtype, keepdims=keepdims)
        return requantize_exactly(sums, params, node.attributes).reshape(shape)

    return run


@kernel("int_softmax")
def int_softmax(node: Node, context: KernelContext) -> Run:
    axis = node.attributes["axis"]
    table = constant(node, "table").astype(np.int64)
    params = parameters(constant(node, "requant"), node.attributes["mode"])

    def run(operands: Sequence[Any]) -> Array:
        x = operands[0].astype(np.int64)
        exponentials = np.take(table, x.max(axis=axis, keepdims=True) - x)
        total = exponentials.sum(axis=axis, keepdims=True)
        return requantize_exactly((exponentials << 31) // total, params, node.attributes)

    return run
