"""`fuse-conv`: a convolution takes the addition and the activation behind it. And `unfuse`, the inverse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hqc.ir import Graph, Node, Trait, Value
from hqc.march.rules import Checker
from hqc.passes.base import Pass, PassContext, PassResult
from hqc.passes.registry import register_pass
from hqc.passes.rewrite import absorb_origin, become, may_join, morph, only_user

ACTIVATIONS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "relu": ("relu", {}),
    "relu6": ("clamp", {"min": 0.0, "max": 6.0}),
}
"""Op and attributes that each value of the `activation` attribute stands for."""


@register_pass
@dataclass(frozen=True)
class FuseConv(Pass):
    """Join conv, conv-transpose or linear x {add} x {relu, relu6} into one operation with one rounding.

    A member joins when it is the only user of the value before it, that value has no scale of its own and is not returned, and
    the user's wishes agree; operations wished on the CPU stay as they were written. The other operand of an addition must be
    data of the same shape, and the march must be able to add tensors of their rank on its BPU. An addition with two candidates
    takes the one last in program order that the march accepts. The result has the last member's name, place and location; its
    origin lists all members.
    """

    name: ClassVar[str] = "fuse-conv"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        changed = False
        checker = Checker(context.march, hybrid=context.hybrid, hints=False)
        for node in graph.nodes:
            if len(node.origin) > 1:
                continue  # `unfuse` could not tell its parts from the convolution's
            if node.op.has(Trait.SUM):
                conv = _choose(graph, node, context, checker)
                if conv is not None:
                    _join_sum(graph, conv, node)
                    changed = True
            elif node.op.has(Trait.ACTIVATION):
                kind, conv = activation_kind(node), _candidate(graph, node, 0, context)
                if kind is not None and conv is not None:
                    _join(graph, conv, node, conv.inputs, {**conv.attributes, "activation": kind})
                    changed = True
        return PassResult(changed)


def activation_kind(node: Node) -> str | None:
    """The `activation` attribute that stands for `node`, or None for an activation that cannot be fused."""
    for kind, (op, attributes) in ACTIVATIONS.items():
        if node.op.name == op and all(node.attributes[name] == value for name, value in attributes.items()):
            return kind
    return None


def _candidate(graph: Graph, node: Node, index: int, context: PassContext) -> Node | None:
    """The convolution behind operand `index` that may take `node`, or None."""
    value = node.inputs[index]
    conv = None if value is None else value.producer
    if value is None or conv is None or not conv.op.has(Trait.CONV_LIKE) or only_user(graph, value) is not node:
        return None
    weight = conv.operand("weight")
    if weight is None or not weight.is_parameter or conv.attributes["activation"] != "none":
        return None
    # Of a prepared model, the plan has joined what has no fake quant between; a file with scales means what it says.
    if weight.quant is not None and context.plan is None:
        return None
    if not set(conv.origin).isdisjoint(node.origin) and not _took_the_sum_of(conv, node):
        return None  # parts of one operation of the model: `unfuse` could not tell them apart
    return conv if may_join(conv, node, context) else None


def _took_the_sum_of(conv: Node, node: Node) -> bool:
    """True when the residual of `conv` and the activation `node` are one operation of the model (an `add_relu`)."""
    return conv.operand("residual") is not None and conv.origin[-1:] == node.origin


def _choose(graph: Graph, node: Node, context: PassContext, checker: Checker) -> Node | None:
    """The convolution that takes an addition."""
    a, b = node.inputs
    if a is None or b is None or a is b or a.is_parameter or b.is_parameter:
        return None
    if a.shape != b.shape or not (a.type.dtype is b.type.dtype and a.type.dtype.is_float):
        return None
    found = [conv for index in (0, 1) if (conv := _candidate(graph, node, index, context)) is not None]
    found = [conv for conv in found if conv.operand("residual") is None]
    # On a prepared model the plan has decided, perhaps before shapes were known.
    if found and context.hybrid and context.plan is None and not checker.observe(node).accepted:
        return None
    found.sort(key=lambda conv: conv._order)
    if len(found) == 2:
        accepted = [conv for conv in found if checker.check(conv).accepted]
        found = accepted or found
    return found[-1] if found else None


def _join_sum(graph: Graph, conv: Node, node: Node) -> None:
    residual = next(value for value in node.inputs if value is not None and value.producer is not conv)
    inputs: list[Value | None] = [*conv.inputs, *[None] * len(conv.op.operands)][: len(conv.op.operands)]
    inputs[conv.op.operand_index("residual")] = residual
    _join(graph, conv, node, inputs, dict(conv.attributes))


def _join(graph: Graph, conv: Node, node: Node, inputs: Sequence[Value | None], attributes: dict[str, Any]) -> None:
    """`node` becomes the fused operation and `conv` goes.

    An operation of the model that is two members (`add_relu`) is named twice in the origin, so that `unfuse` can count.
    """
    twice = node.origin if _took_the_sum_of(conv, node) else ()
    absorb_origin(graph, node, conv)
    node.origin += twice
    become(node, conv.op, inputs, attributes)
    graph.erase(conv)


# --- the inverse -------------------------------------------------------------------------------------------------------


def is_fused(node: Node) -> bool:
    """True for a conv-like node that carries an activation or a residual."""
    return node.op.has(Trait.CONV_LIKE) and (node.attributes["activation"] != "none" or node.operand("residual") is not None)


def is_one_operation(node: Node) -> bool:
    """True for a fused node whose addition and activation are one operation of the model, which has one device."""
    return len(node.origin) > 1 and node.origin[-1] == node.origin[-2]


def unfuse(graph: Graph, node: Node) -> list[Node]:
    """Replace a fused node by its members in program order: convolution, add, activation; `[node]` when nothing is fused.

    Origins go to the members from the back: fusion keeps program order, so the activation's name is the last one and the
    add's the one before. The last member is the node that was there, so the value keeps its name and users. Every member has
    the request, and the location it had before fusion where the graph remembers it. Device and support of the new members are
    left to the caller.
    """
    tail: list[Node] = []
    if node.attributes["activation"] != "none":
        node, activation = split_activation(graph, node)
        tail.insert(0, activation)
    residual = node.operand("residual")
    if residual is not None:
        inputs = list(node.inputs)
        inputs[node.op.operand_index("residual")] = None
        conv = _split(graph, node, node.attributes, inputs)
        morph(node, "add", [conv.result, residual])
        tail.insert(0, node)
        node = conv
    return [node, *tail]


def split_activation(graph: Graph, node: Node) -> tuple[Node, Node]:
    """Take only the activation out again: `(convolution, activation)`. Everything else as `unfuse`."""
    op, attributes = ACTIVATIONS[node.attributes["activation"]]
    conv = _split(graph, node, {**node.attributes, "activation": "none"}, node.inputs)
    morph(node, op, [conv.result], attributes)
    return conv, node


def _split(graph: Graph, node: Node, attributes: Mapping[str, Any], inputs: Sequence[Value | None]) -> Node:
    """A convolution in front of `node` with all origins but the last, which stays with `node`."""
    origin = node.origin[:-1]
    name = origin[-1] if origin else f"{node.name}_{node.op.name}"
    if is_one_operation(node):
        name = f"{name}_sum"  # the front end's name for it
    loc = graph.locations.get(name, node.loc)
    conv = graph.add_node(node.op, inputs, attributes, name=name, loc=loc, origin=origin, before=node, types=[node.result.type])
    conv.request = node.request
    node.origin = node.origin[-1:]
    return conv
