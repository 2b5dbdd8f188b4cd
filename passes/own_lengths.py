"""Quotients of vectors and their own lengths, spelled out: `x / (x.norm() + eps)`, `x * rsqrt(x.square().mean() + eps)`,
`(x - x.mean()) / (x.std() + eps)` and their kin.

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
_NEARBY = 64
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
        return _reduced(node, x) if _is_like(first, x) else None
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
        if inner is not None and node.op is elementwise.mul and number > 0:
            return OwnLength(inner.axes, inner.least * number)
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
    return squares and all(each is not None and _is_like(each, x) for each in node.inputs)


def _is_like(value: Value, x: Value) -> bool:
    """Whether `value` is 0 wherever the vectors `x` are: `x` itself, its distance from its mean, or what that is for both."""
    own, other = source_of(value), _from_mean(x)
    return own is x or _from_mean(own) in (x, other or x)


def _from_mean(value: Value) -> Value | None:
    """What `value` is the distance from its own mean of."""
    node = value.producer
    if node is None or node.op is not elementwise.sub or node.inputs[0] is None or node.inputs[1] is None:
        return None
    x, average = source_of(node.inputs[0]), source_of(node.inputs[1]).producer
    while average is not None and average.op in _SPREADS:
        average = source_of(average.operands[0]).producer
    return x if average is not None and average.op is reduction.mean and source_of(average.operands[0]) is x else None


def grids_behind(value: Value) -> list[Value]:
    """The values on grids that the CPU makes `value` of, element by element or by moving elements, as far as that can be seen nearby."""
    found: list[Value] = []
    waiting, seen = [value], {value.name}
    while waiting and len(seen) < _NEARBY:
        node = waiting.pop().producer
        if node is None:
            continue
        if node.op.has(Trait.BOUNDARY):
            found += node.operands if node.device is Device.CPU and node.op.name == "dequantize" else []
        elif node.device is Device.CPU and any(
            map(node.op.has, (Trait.ELEMENTWISE, Trait.LAYOUT_ONLY, Trait.PASS_THROUGH, Trait.AVERAGE))
        ):
            fresh = [operand for operand in node.operands if operand.name not in seen]
            seen.update(operand.name for operand in fresh)
            waiting += fresh
    return found


def meets_singular(value: Value) -> bool:
    """Whether the CPU computes something infinite, undefined or infinitely steep at some points of `value`, which is on a grid."""

    def readers(node: Node) -> list[Node]:
        found = [user for result in node.results for user in result.users]
        return [user for user in found if user.device is Device.CPU and not user.op.has(Trait.BOUNDARY)]

    return any(
        node.op.has(Trait.SINGULAR) for user in value.users for node in reached(user, readers) if user.device is Device.CPU
    )
