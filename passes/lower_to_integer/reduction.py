"""Means, sums, softmax, argmax. docs/arithmetic.md sections 6 and 7."""

from __future__ import annotations

import math

import numpy as np

from hqc import arithmetic
from hqc.ir import Node, Value
from hqc.march.spec import MarchSpec
from hqc.passes.conv_scales import tensor_scale
from hqc.passes.lower_to_integer import acceptance
from hqc.passes.lower_to_integer.context import Lowering
from hqc.passes.lower_to_integer.pooling import requant_counts
from hqc.passes.lower_to_integer.registry import lowers


def _axes(node: Node, low: Lowering, x: Value) -> tuple[int, ...]:
    rank = len(low.shape(x))
    return tuple(sorted({axis % rank for axis in node.attributes["axes"]})) or tuple(range(rank))


@lowers("mean", accumulator_scale=lambda node, march: tensor_scale(node.operands[0], node), accepts=acceptance.average)
def mean(node: Node, low: Lowering) -> None:
    """A sum whose requantization holds 1/n."""
    (x,) = node.operands
    axes, shape = _axes(node, low, x), low.shape(x)
    count = math.prod(shape[axis] for axis in axes)
    if low.march.power_of_two and count & (count - 1):
        raise low.refuse(
            f"{low.march.name} divides only by shifting and by average pools over height and width, not by {count}; let it run on "
            "the CPU"
        )
    requant, attributes = requant_counts(low, x, np.array([count], np.int64))
    low.become("int_sum", [x, requant], {"axes": axes, "keepdims": node.attributes["keepdims"], **attributes})


@lowers("sum", accumulator_scale=lambda node, march: tensor_scale(node.operands[0], node), accepts=acceptance.total)
def sum_(node: Node, low: Lowering) -> None:
    """A sum over axes, requantized from the operand's scale."""
    (x,) = node.operands
    axes = _axes(node, low, x)
    requant_counts_checked(low, x, axes)
    requant, attributes = low.requant(low.scale(x))
    low.become("int_sum", [x, requant], {"axes": axes, "keepdims": node.attributes["keepdims"], **attributes})


def requant_counts_checked(low: Lowering, x: Value, axes: tuple[int, ...]) -> None:
    """Refuse a sum that an int32 might not hold."""
    count = math.prod(low.shape(x)[axis] for axis in axes)
    if low.quant(x).dtype.bits == 8 and count >= acceptance.SUM_ROOM:
        raise low.refuse(f"a sum over {count} elements does not fit 32 bits; let it run on the CPU")


@lowers("argmax", "argmin")
def argument(node: Node, low: Lowering) -> None:
    """On integers; ties go to the lowest index."""
    low.keep(node.inputs)


def _probability_scale(node: Node, march: MarchSpec) -> float:
    return 2.0**-31


@lowers("softmax", accumulator_scale=_probability_scale)
def softmax(node: Node, low: Lowering) -> None:
    """Q15 exponentials by table, Q31 probabilities."""
    (x,) = node.operands
    bits = low.dtype(x).bits
    entries = low.parameter("table", arithmetic.softmax_table(low.scale(x), bits).astype(np.int32))
    requant, attributes = low.requant(2.0**-31)
    low.become("int_softmax", [x, entries, requant], {"axis": node.attributes["axis"], **attributes})
