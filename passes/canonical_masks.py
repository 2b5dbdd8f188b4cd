"""The rewrites of `canonicalize` for masks that are added: minus infinity never enters an addition, as no grid holds it; it is chosen.

As in `canonical_rules`, one function each, whose docstring is the rule as documentation shows it.
"""

from __future__ import annotations

import numpy as np

from hqc.ir import Graph, Node, Value, get_op
from hqc.ir.ops import elementwise, layout
from hqc.passes.canonical_rules import constant_operand, own_scale, rule
from hqc.passes.rewrite import absorb_origin, drop_unused, morph, only_user

_WHERE = get_op("where")


@rule(elementwise.add)
def add_infinities(graph: Graph, node: Node) -> bool:
    """`x + mask` with a constant mask that holds minus infinities is `where(keep, x + rest, -inf)`, and `x` alone where the rest is 0."""
    x, mask, array = node.inputs[0], node.inputs[1], constant_operand(node, 1)
    if x is None or mask is None or array is None or array.dtype.kind != "f" or own_scale(node) or mask.trains:
        return False
    blocked = np.isneginf(array)
    rest = np.where(blocked, np.zeros((), array.dtype), array)
    if not blocked.any() or blocked.all() or not np.isfinite(rest).all():
        return False
    if rest.any():
        x = _sum(graph, node, x, graph.add_parameter(graph.unique_name(f"{mask.name}_rest"), rest))
    elif not _reaches(node, mask.shape, x.shape):
        return False
    keep = graph.add_parameter(graph.unique_name(f"{mask.name}_kept"), ~blocked)
    morph(node, _WHERE, [keep, x, _infinity(graph, node)])
    drop_unused(graph, mask)
    return True


@rule(elementwise.add)
def add_masked(graph: Graph, node: Node) -> bool:
    """`x + where(c, -inf, rest)` is `where(c, -inf, x + rest)`, and `x` alone where the rest is 0."""
    for index in (0, 1):
        mask, x = node.inputs[index], node.inputs[1 - index]
        chosen = None if mask is None else mask.producer
        if chosen is None or chosen.op is not _WHERE or x is None or own_scale(node) or own_scale(chosen):
            continue
        found = [_uniform(chosen, branch) for branch in (1, 2)]
        if -np.inf not in found or (x.is_parameter and np.inf in found):
            continue
        blocked = 1 + found.index(-np.inf)
        rest = chosen.inputs[3 - blocked]
        assert rest is not None
        if found[2 - blocked] != 0.0:
            x = _sum(graph, node, x, rest)
        elif chosen.inputs[0] is None or not _reaches(node, chosen.inputs[0].shape, x.shape):
            continue
        branches = (_infinity(graph, node), x) if blocked == 1 else (x, _infinity(graph, node))
        old, alone = chosen.operands, only_user(graph, chosen.result) is node
        if alone:
            absorb_origin(graph, node, chosen)
        morph(node, _WHERE, [chosen.inputs[0], *branches])
        if alone:
            graph.erase(chosen)
            drop_unused(graph, *old)
        return True
    return False


@rule(layout.reshape, layout.expand, layout.transpose)
def move_condition(graph: Graph, node: Node) -> bool:
    """A mask `where(c, -inf, rest)` that is reshaped, expanded or transposed is chosen by `c` in that layout."""
    mask = node.inputs[0]
    chosen = None if mask is None else mask.producer
    if mask is None or chosen is None or chosen.op is not _WHERE or only_user(graph, mask) is not node or own_scale(chosen):
        return False
    numbers = [_uniform(chosen, branch) for branch in (1, 2)]
    shapes = [
        () if number is not None else _moved_shape(node, mask.shape, value.shape)
        for value, number in zip(chosen.operands, (None, *numbers), strict=True)
    ]
    if -np.inf not in numbers or any(shape is None for shape in shapes) or own_scale(node):
        return False
    old, moved = chosen.operands, list[Value]()
    for value, number, shape in zip(old, (None, *numbers), shapes, strict=True):
        name = graph.unique_name(f"{node.name}_{'condition' if value is old[0] else 'value'}")
        if number is not None:
            moved.append(graph.add_parameter(name, np.array(number, mask.type.dtype.numpy)))
            continue
        attributes = node.attributes if value.shape == mask.shape else {"shape": shape}
        moved.append(
            graph.add_node(node.op, [value], attributes, name=name, loc=node.loc, origin=node.origin, before=node).result
        )
    absorb_origin(graph, node, chosen)
    morph(node, _WHERE, moved)
    graph.erase(chosen)
    drop_unused(graph, *old)
    return True


def _moved_shape(node: Node, whole: tuple[int, ...] | None, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """The shape of an operand of a choice of shape `whole` once `node` has moved it; one that broadcasts follows only where the first axis
    is taken apart (samples and heads). None where it cannot follow."""
    target = node.result.shape
    if whole is None or shape is None or target is None:
        return None
    if shape == whole:
        return target
    lead = len(target) - len(whole) + 1
    if node.op is not layout.reshape or lead < 1 or target[lead:] != whole[1:] or len(shape) != len(whole):
        return None
    return (*(target[:lead] if shape[0] == whole[0] else (1,) * lead), *shape[1:])


@rule(_WHERE)
def always_chosen(graph: Graph, node: Node) -> bool:
    """A choice by a constant condition that holds everywhere, or nowhere, is what it chooses."""
    condition = constant_operand(node, 0)
    if condition is None or not condition.size or own_scale(node) or bool(condition.all()) != bool(condition.any()):
        return False
    chosen, old = node.inputs[1 if condition.all() else 2], node.operands
    if (
        chosen is None
        or chosen.shape is None
        or chosen.shape != node.result.shape
        or chosen.type.dtype is not node.result.type.dtype
    ):
        return False
    graph.replace_uses(node.result, chosen)
    graph.erase(node)
    drop_unused(graph, *(value for value in old if value is not chosen))
    return True


@rule(_WHERE)
def masked_sum(graph: Graph, node: Node) -> bool:
    """`where(c, x + 0, -inf)`, as a mask whose minus infinities were taken out leaves it, is `where(c, x, -inf)`."""
    for index in (1, 2):
        total, other = node.inputs[index], constant_operand(node, 3 - index)
        added = None if total is None else total.producer
        zeros = None if added is None or added.op is not elementwise.add else constant_operand(added, 1)
        if added is None or zeros is None or zeros.any() or other is None or not np.isneginf(other).all():
            continue
        mask, x = added.inputs[1], added.inputs[0]
        alone = only_user(graph, added.result) is node and not own_scale(added) and mask is not None
        if not alone or mask is None or x is None or mask.trains or x.shape != added.result.shape:
            continue
        absorb_origin(graph, node, added)
        node.set_input(index, x)
        graph.erase(added)
        drop_unused(graph, mask)
        return True
    return False


def _reaches(node: Node, *shapes: tuple[int, ...] | None) -> bool:
    """True where the shapes alone broadcast to that of `node`'s result."""
    known = [shape for shape in shapes if shape is not None]
    return len(known) == len(shapes) and np.broadcast_shapes(*known) == node.result.shape


def _uniform(node: Node, index: int) -> float | None:
    """The number that operand `index` holds everywhere."""
    array = constant_operand(node, index)
    if array is None or not array.size or array.dtype.kind != "f" or not (array == array.reshape(-1)[0]).all():
        return None
    return float(array.reshape(-1)[0])


def _sum(graph: Graph, node: Node, x: Value, rest: Value) -> Value:
    name = graph.unique_name(f"{node.name}_sum")
    return graph.add_node(
        elementwise.add, [x, rest], name=name, loc=node.loc, origin=node.origin or (node.name,), before=node
    ).result


def _infinity(graph: Graph, node: Node) -> Value:
    return graph.add_parameter(graph.unique_name(f"{node.name}_blocked"), np.array(-np.inf, node.result.type.dtype.numpy))
