"""Undo a fusion: a convolution with an add or an activation inside becomes separate nodes again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hqc.ir import Graph, Node, Trait
from hqc.passes.rewrite import morph

ACTIVATIONS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "relu": ("relu", {}),
    "relu6": ("clamp", {"min": 0.0, "max": 6.0}),
}
"""Op and attributes that each value of the `activation` attribute stands for."""


def is_fused(node: Node) -> bool:
    """True for a conv-like node that carries an activation or a residual."""
    return node.op.has(Trait.CONV_LIKE) and (node.attributes["activation"] != "none" or node.operand("residual") is not None)


def unfuse(graph: Graph, node: Node, *, activation_only: bool = False) -> list[Node] | None:
    """Replace `node` by its members in program order: convolution, add, activation; None where they cannot be told apart.

    With `activation_only` the add stays inside. Origins go to the members from the back: fusion keeps program order, so the
    activation's name is the last one and the add's the one before. Members of a node with fewer names than members come from
    one operation of the model, which has one device: such a node stays whole. The last member is the node that was there, so
    the value keeps its name and users; every member has the request and gets the location it had before fusion. Device and
    support of the new members are left to the caller.
    """
    kind = node.attributes["activation"]
    residual = None if activation_only else node.operand("residual")
    taken_out = (kind != "none") + (residual is not None)
    if node.origin and len(node.origin) <= taken_out:
        return None
    members = [node]
    if kind != "none":
        op, attributes = ACTIVATIONS[kind]
        conv = _split(graph, node, {**node.attributes, "activation": "none"}, list(node.inputs))
        morph(node, op, [conv.result], attributes)
        members.insert(0, conv)
    if residual is not None:
        addition, inputs = members[0], list(members[0].inputs)
        inputs[addition.op.operand_index("residual")] = None
        conv = _split(graph, addition, addition.attributes, inputs)
        morph(addition, "add", [conv.result, residual])
        members.insert(0, conv)
    return members


def _split(graph: Graph, node: Node, attributes: Mapping[str, Any], inputs: list[Any]) -> Node:
    """A convolution in front of `node` with all origins but the last, which stays with `node`."""
    origin = node.origin[:-1]
    name = origin[-1] if origin else f"{node.name}_{node.op.name}"
    loc = graph.locations.get(name, node.loc)
    conv = graph.add_node(node.op, inputs, attributes, name=name, loc=loc, origin=origin, before=node, types=[node.result.type])
    conv.request = node.request
    node.origin = node.origin[-1:]
    return conv
