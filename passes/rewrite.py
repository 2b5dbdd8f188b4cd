"""Small steps that rewriting passes share: turning a node into another op in place, and joining neighbours.

A rewrite keeps the node that makes the user's value, so that the value's name, users, position and location stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt

from hqc.ir import Device, Graph, Node, OpDef, Value, get_op
from hqc.passes.base import PassContext


def morph(node: Node, op: OpDef | str, inputs: Sequence[Value | None], attributes: Mapping[str, Any] | None = None) -> None:
    """Make `node` compute `op` of `inputs`; results, location, origin, device and position stay.

    The results' types must not change; where a shape was unknown it is inferred again.
    """
    definition = get_op(op) if isinstance(op, str) else op
    definition.check_operand_count(len(inputs))
    become(node, definition, inputs, definition.complete_attributes(attributes or {}))
    if any(value.shape is None for value in node.results):
        for value, type in zip(node.results, node.infer_types(), strict=True):
            value.type = type


def become(node: Node, op: OpDef, inputs: Sequence[Value | None], attributes: dict[str, Any]) -> None:
    """`morph` to what another node is: its op, operands and complete attributes, the same result types."""
    node.op, node.attributes = op, attributes
    node.set_inputs(inputs)


def absorb_origin(graph: Graph, node: Node, *earlier: Node) -> None:
    """Give `node` the origins of nodes it replaces, program order kept; a node without an origin counts by its name.

    The graph remembers the locations of the parts, so that `unfuse` can give them back.
    """
    parts = sorted((*earlier, node), key=lambda part: part._order)
    for part in parts:
        for name in part.origin or (part.name,):
            graph.locations.setdefault(name, part.loc)
    node.origin = tuple(dict.fromkeys(name for part in parts for name in (part.origin or (part.name,))))


def only_user(graph: Graph, value: Value) -> Node | None:
    """The one node that reads `value`, once, when nothing else does and it is not a graph output."""
    uses = value._uses
    if len(uses) != 1 or graph.is_output(value):
        return None
    ((user, _),) = uses.values()
    return user


def may_join(first: Node, second: Node, context: PassContext) -> bool:
    """True when two nodes may become one operation.

    Not when the user wishes them apart or on the CPU (an operation there stays as it was written), not after the support
    analysis has judged (and perhaps separated) them, not across a value with a scale of its own, and on a prepared model only
    where the plan joined them.
    """
    if first.support is not None or second.support is not None:
        return False
    if any(value.quant is not None for value in first.results):
        return False
    if _wish(first) != _wish(second) or wished_on_cpu(first):
        return False
    if context.plan is None:
        return True
    here, there = ({p.names for p in context.plan.lookup(node.origin or (node.name,))} for node in (first, second))
    return here == there and len(here) == 1


def wished_on_cpu(node: Node) -> bool:
    """True when the user placed the node on the CPU."""
    return node.request is not None and node.request.device is Device.CPU


def _wish(node: Node) -> tuple[Device | None, object]:
    return (None, None) if node.request is None else (node.request.device, node.request.dtype)


def set_parameter(graph: Graph, node: Node, operand: int, array: npt.NDArray[Any], name: str) -> None:
    """Give `node` a new constant operand: in place where no other node reads the old one, else as a parameter of its own."""
    old = node.inputs[operand] if operand < len(node.inputs) else None
    if old is not None and old.is_parameter and len(old._uses) == 1 and old.shape == array.shape and not graph.is_output(old):
        old.array = array
        return
    node.set_input(operand, graph.add_parameter(name, array, of=() if old is None else [old]))
    drop_unused(graph, old)


def drop_unused(graph: Graph, *values: Value | None) -> None:
    """Remove parameters that nothing reads any more."""
    for value in dict.fromkeys(values):
        if value is not None and value.is_parameter and not value.has_uses and not graph.is_output(value):
            graph.erase_parameter(value)
