"""Undo a fusion: a convolution with an add or an activation inside becomes separate nodes again."""

from __future__ import annotations

from typing import Any

from hqc.ir import Graph, Node, Trait


def is_fused(node: Node) -> bool:
    """True for a conv-like node that carries an activation or a residual."""
    return node.op.has(Trait.CONV_LIKE) and (node.attributes["activation"] != "none" or node.operand("residual") is not None)


def unfuse(graph: Graph, node: Node, *, activation_only: bool = False) -> list[Node] | None:
    """Replace `node` by its members in program order: convolution, add, activation; None where they cannot be told apart.

    With `activation_only` the add stays inside. Origins go to the members from the back: fusion keeps program order, so the
    activation's name is the last one and the add's the one before. Members of a node with fewer names than members come from
    one operation of the model, which has one device: such a node stays whole. The last member keeps the value's name, support
    and request are left to the caller.
    """
    activation = node.attributes["activation"]
    residual = node.operand("residual")
    splits_add = residual is not None and not activation_only
    tail: list[tuple[str, dict[str, Any]]] = [("add", {})] if splits_add else []
    if activation != "none":
        tail.append(("relu", {}) if activation == "relu" else ("clamp", {"min": 0.0, "max": 6.0}))
    if node.origin and len(node.origin) <= len(tail):
        return None
    origins: list[tuple[str, ...]] = [(each,) for each in node.origin[len(node.origin) - len(tail) :]] or [()] * len(tail)
    head = node.origin[: len(node.origin) - len(tail)]
    old, name = node.result, node.result.name
    uses, outputs = old.users, [i for i, value in enumerate(graph.outputs) if value is old]

    inputs = list(node.inputs)
    if splits_add:
        inputs[node.op.operand_index("residual")] = None
    conv = graph.add_node(
        node.op,
        inputs,
        {**node.attributes, "activation": "none"},
        name=head[-1] if head else f"{name}_{node.op.name}",
        loc=node.loc,
        origin=head,
        before=node,
    )
    # The value's name is free for the last member once the old node is gone.
    graph.replace_uses(old, conv.result)
    graph.erase(node)
    members = [conv]
    for position, (op_name, attributes) in enumerate(tail):
        operands = [members[-1].result, residual] if op_name == "add" else [members[-1].result]
        origin = origins[position]
        last = position == len(tail) - 1
        members.append(
            graph.add_node(
                op_name,
                operands,
                attributes,
                name=name if last else (origin[-1] if origin else f"{name}_{op_name}"),
                loc=node.loc,
                origin=origin,
                after=members[-1],
            )
        )
    result = members[-1].result
    result.quant = old.quant
    graph.replace_uses(conv.result, result, only=uses, outputs=False)
    for index in outputs:
        graph.replace_output(index, result)
    for member in members:
        member.request = node.request
    return members
