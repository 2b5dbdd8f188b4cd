"""What a node costs: multiply-accumulates, and bytes read and written. None where a shape is unknown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hqc.ir.nodes import Node, Value


@dataclass(frozen=True)
class Cost:
    """`macs`: multiply-accumulates of the conv-like and matrix ops, 0 for others. Bytes count each operand once, as stored."""

    macs: int | None = 0
    read_bytes: int | None = 0
    written_bytes: int | None = 0
    parameter_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            _sum((self.macs, other.macs)),
            _sum((self.read_bytes, other.read_bytes)),
            _sum((self.written_bytes, other.written_bytes)),
            self.parameter_bytes + other.parameter_bytes,
        )


def macs(node: Node) -> int | None:
    """Multiply-accumulates of a node; 0 for ops that have none, None when a shape is unknown."""
    if node.op.macs is None:
        return 0
    return node.op.macs(node.operand_types, [value.type for value in node.results], node.attributes)


def stored_bytes(value: Value) -> int | None:
    """Bytes of a value as it is stored: in its quantized type where it has one."""
    if value.quant is None:
        return value.type.nbytes
    size = value.type.size
    return None if size is None else size * value.quant.dtype.numpy.itemsize


def node_cost(node: Node) -> Cost:
    """Cost of one node."""
    operands = list(dict.fromkeys(node.operands))
    parameters = [value for value in operands if value.is_parameter]
    return Cost(
        macs(node),
        _sum(stored_bytes(value) for value in operands if not value.is_parameter),
        _sum(stored_bytes(value) for value in node.results),
        _sum(stored_bytes(value) for value in parameters) or 0,
    )


def total_cost(nodes: Iterable[Node]) -> Cost:
    """Sum over nodes; a parameter that two nodes share counts twice."""
    return sum((node_cost(node) for node in nodes), Cost())


def _sum(parts: Iterable[int | None]) -> int | None:
    total = 0
    for part in parts:
        if part is None:
            return None
        total += part
    return total
