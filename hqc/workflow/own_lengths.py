"""Quotients of vectors and their own lengths, spelled out: `x / (x.norm() + eps)`, `x * rsqrt(x.square().mean() + eps)` and their kin.

They are as steep at a vector without length as the operations that standardize (`hqc.nn.qat.steep`), and a grid meets it as often.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hqc.ir import Device, Node, Trait, Value, get_op
from hqc.ir.ops import activation, elementwise, layout, reduction
from hqc.passes.canonical_forms import number_of
from hqc.structures import reached

_NORMS = (get_op("reduce_l1"), get_op("reduce_l2"))
_SQUARES, _ROOT, _INVERSE_ROOT, _POWER = (get_op(name) for name in ("reduce_sum_square", "sqrt", "rsqrt", "pow_scalar"))
_SPREADS = (layout.expand, layout.reshape)


@dataclass(frozen=True)
class OwnLength:
    """`axes`: along which the vectors lie; `least`: the divisor of a vector without length."""

    axes: tuple[int, ...]
    least: float


def source_of(value: Value) -> Value:
    """The value in front of the boundaries that made `value`."""
    while value.producer is not None and value.producer.op.has(Trait.BOUNDARY):
        value = value.producer.operands[0]
    return value


def own_length(reader: Node, operand: Value) -> OwnLength | None:
    """The length that `reader` divides `operand` by, where that is a length of the operand itself."""
    if len(reader.inputs) != 2 or operand not in reader.inputs:
        return None
    first, second = reader.inputs
    other = second if first is operand else first
    if other is None:
        return None
    x = source_of(operand)
    if reader.op is elementwise.div and first is operand:
        return _length(other, x)
    inverse = source_of(other).producer
    if reader.op is elementwise.mul and inverse is not None and inverse.op is _INVERSE_ROOT:
        return _root(_length(inverse.operands[0], x))
    return None


def _root(length: OwnLength | None) -> OwnLength | None:
    return None if length is None else OwnLength(length.axes, math.sqrt(length.least))


def _length(value: Value, x: Value) -> OwnLength | None:
    """What of `x` a divisor is the length of, and what it is where that is 0; steps of it may have devices of their own."""
    node = source_of(value).producer
    if node is None or not node.inputs or node.inputs[0] is None:
        return None
    first = node.inputs[0]
    if node.op in (*_NORMS, _SQUARES):
        return _reduced(node, x) if source_of(first) is x else None
    if node.op in (reduction.sum_, reduction.mean):
        return _reduced(node, x) if _is_square(first, x) else None
    if node.op in _SPREADS:
        return _length(first, x)
    if node.op is _ROOT:
        return _root(_length(first, x))
    if node.op is activation.clamp:
        inner, least = _length(first, x), node.attributes["min"]
        return None if inner is None or least is None else OwnLength(inner.axes, max(inner.least, float(least)))
    for index, number in _numbers(node):
        rest = node.inputs[1 - index]
        inner = None if rest is None or number < 0 else _length(rest, x)
        if inner is not None and node.op is elementwise.add:
            return OwnLength(inner.axes, inner.least + number)
        if inner is not None and node.op is elementwise.maximum:
            return OwnLength(inner.axes, max(inner.least, number))
    return None


def _numbers(node: Node) -> Iterator[tuple[int, float]]:
    """The operands that are numbers."""
    for index in range(len(node.inputs) if len(node.inputs) == 2 else 0):
        number = number_of(node, index)
        if number is not None:
            yield index, number


def _reduced(node: Node, x: Value) -> OwnLength | None:
    rank = x.type.rank
    return None if rank is None else OwnLength(tuple(node.attributes["axes"]) or tuple(range(rank)), 0.0)


def _is_square(value: Value, x: Value) -> bool:
    node = source_of(value).producer
    if node is None:
        return False
    squares = node.op is elementwise.mul or (node.op is _POWER and node.attributes["exponent"] == 2.0)
    return squares and all(each is not None and source_of(each) is x for each in node.inputs)


def meets_singular(value: Value) -> bool:
    """Whether the CPU computes something infinite, undefined or infinitely steep at some points of `value`, which is on a grid."""

    def readers(node: Node) -> list[Node]:
        found = [user for result in node.results for user in result.users]
        return [user for user in found if user.device is Device.CPU and not user.op.has(Trait.BOUNDARY)]

    return any(
        node.op.has(Trait.SINGULAR) for user in value.users for node in reached(user, readers) if user.device is Device.CPU
    )
