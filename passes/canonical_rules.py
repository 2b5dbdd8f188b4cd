"""The rewrites of `canonicalize`, one function each; the docstring is the rule as documentation shows it.

A rule looks at one node and returns True when it changed the graph. Rules that replace a node keep the value's name, location
and origin. A node that stays is never bypassed: what the FX graph computes between two nodes is what the IR has between
them, or nothing. No rule touches a value that has a scale of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from hqc.ir import Graph, Node, OpDef, Trait, Value
from hqc.ir.graph import constant_array
from hqc.ir.ops import activation, elementwise, layout
from hqc.passes.rewrite import drop_unused, morph, only_user

Rule = Callable[[Graph, Node], bool]
_Rule = TypeVar("_Rule", bound=Rule)
RULES: dict[str, list[Rule]] = {}
"""Rules by op name; `*` holds those that look at every node."""


def rule(*ops: OpDef) -> Callable[[_Rule], _Rule]:
    """Register a rule for nodes of some ops, or of all when none is given."""

    def register(function: _Rule) -> _Rule:
        for name in [op.name for op in ops] or ["*"]:
            RULES.setdefault(name, []).append(function)
        return function

    return register


def rules_of(op: OpDef) -> list[Rule]:
    """The rules that apply to nodes of an op, in the order they are tried."""
    return [*RULES["*"], *RULES.get(op.name, ())]


# --- helpers -------------------------------------------------------------------------------------------------------------


def _keeps_scale(node: Node, source: Value) -> bool:
    """True when dropping `node` loses no scale: its results have none, or its operand's."""
    return all(value.quant is None or value.quant.same_grid(source.quant) for value in node.results)


def _drop(graph: Graph, node: Node, source: Value) -> bool:
    """Let users read `source` instead of the result of `node`."""
    if node.result.type.dtype is not source.type.dtype or not _keeps_scale(node, source):
        return False
    operands = node.operands
    graph.replace_uses(node.result, source)
    graph.erase(node)
    drop_unused(graph, *(value for value in operands if value is not source))
    return True


def constant_operand(node: Node, index: int) -> np.ndarray[Any, Any] | None:
    """The array of an operand that is an unquantized constant."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return constant_array(value) if value is not None and value.is_parameter and value.quant is None else None


def is_scalar(node: Node, index: int, number: float) -> bool:
    """True when operand `index` is the constant `number` and broadcasting with it leaves the other operand's shape alone."""
    array = constant_operand(node, index)
    if array is None or array.size != 1 or array.reshape(())[()] != number:
        return False
    held = node.inputs[index]
    if held is not None and held.trains:
        return False  # it is another number once it was trained, and the plan is that of both
    other = node.inputs[1 - index]
    return array.ndim == 0 or (other is not None and other.type.rank is not None and array.ndim <= other.type.rank)


def own_scale(node: Node) -> bool:
    return any(value.quant is not None for value in node.results)


def _same_shape(node: Node) -> bool:
    x = node.inputs[0]
    return x is not None and x.shape is not None and x.shape == node.results[0].shape


def sole_producer(graph: Graph, node: Node, op: OpDef) -> Node | None:
    """The node of kind `op` behind operand 0, when `node` alone reads it and it has no scale of its own."""
    x = node.inputs[0]
    inner = None if x is None else x.producer
    if x is None or inner is None or inner.op is not op or only_user(graph, x) is not node or own_scale(inner):
        return None
    return inner


# --- ops that do nothing ---------------------------------------------------------------------------------------------------


@rule()
def drop_removed(graph: Graph, node: Node) -> bool:
    """Identity and dropout (ops with the trait REMOVED) go."""
    source = node.inputs[0] if node.inputs else None
    return node.op.has(Trait.REMOVED) and source is not None and _drop(graph, node, source)


@rule(elementwise.mul, elementwise.div)
def drop_times_one(graph: Graph, node: Node) -> bool:
    """`x * 1` and `x / 1` are `x`."""
    x = node.inputs[0]
    return x is not None and is_scalar(node, 1, 1.0) and _drop(graph, node, x)


@rule(elementwise.add, elementwise.sub)
def drop_plus_zero(graph: Graph, node: Node) -> bool:
    """`x + 0` and `x - 0` are `x` (a negative zero keeps its sign)."""
    x = node.inputs[0]
    return x is not None and is_scalar(node, 1, 0.0) and _drop(graph, node, x)


@rule(elementwise.cast)
def drop_cast(graph: Graph, node: Node) -> bool:
    """A cast to the type that the operand has goes."""
    x = node.inputs[0]
    return x is not None and node.attributes["dtype"] is x.type.dtype and _drop(graph, node, x)


@rule(layout.reshape, layout.expand, layout.tile)
def drop_same_shape(graph: Graph, node: Node) -> bool:
    """A reshape, expand or tile to the shape that the operand has goes."""
    x = node.inputs[0]
    return x is not None and _same_shape(node) and _drop(graph, node, x)


@rule(layout.transpose)
def drop_identity_transpose(graph: Graph, node: Node) -> bool:
    """A transpose that leaves every axis in place goes."""
    x, perm = node.inputs[0], node.attributes["perm"]
    return x is not None and list(perm) == list(range(len(perm))) and _drop(graph, node, x)


@rule(layout.slice_)
def drop_whole_slice(graph: Graph, node: Node) -> bool:
    """A slice that takes everything goes; along the batch axis only when it does so for every batch size."""
    x = node.inputs[0]
    if x is None or not _same_shape(node):
        return False
    rank = x.type.rank or 0
    for axis, start, end in zip(node.attributes["axes"], node.attributes["starts"], node.attributes["ends"], strict=True):
        if axis % rank == 0 and not (start == 0 and end >= 2**31 - 1):
            return False
    return _drop(graph, node, x)


@rule(layout.pad)
def drop_empty_pad(graph: Graph, node: Node) -> bool:
    """A pad by nothing goes."""
    x = node.inputs[0]
    return x is not None and not any(node.attributes["pads"]) and _drop(graph, node, x)


@rule(layout.cat)
def drop_single_cat(graph: Graph, node: Node) -> bool:
    """A cat of one operand goes."""
    x = node.inputs[0]
    return x is not None and len(node.inputs) == 1 and _drop(graph, node, x)


@rule(layout.split)
def drop_single_split(graph: Graph, node: Node) -> bool:
    """A split into one part goes."""
    x = node.inputs[0]
    return x is not None and len(node.results) == 1 and _drop(graph, node, x)


@rule(activation.clamp)
def drop_unbounded_clamp(graph: Graph, node: Node) -> bool:
    """A clamp without bounds goes."""
    x = node.inputs[0]
    bounds = (node.attributes["min"], node.attributes["max"])
    return x is not None and bounds == (None, None) and _drop(graph, node, x)


# --- normal forms of arithmetic -------------------------------------------------------------------------------------------


@rule(elementwise.add, elementwise.mul, elementwise.maximum, elementwise.minimum)
def constant_to_the_right(graph: Graph, node: Node) -> bool:
    """In `add`, `mul`, `maximum` and `minimum` a constant is the right operand."""
    left, right = node.inputs
    if left is None or right is None or not left.is_parameter or right.is_parameter:
        return False
    node.set_input(0, right)
    node.set_input(1, left)
    return True


@rule(elementwise.sub)
def subtract_constant(graph: Graph, node: Node) -> bool:
    """`x - c` is `x + (-c)`, exactly."""
    constant = constant_operand(node, 1)
    if constant is None or constant.dtype.kind != "f":
        return False
    _with_constant(graph, node, elementwise.add, -constant, "negated", "neg")
    return True


@rule(elementwise.div)
def divide_by_power_of_two(graph: Graph, node: Node) -> bool:
    """`x / c` is `x * (1 / c)` where every `c` is a power of two, so that the bits stay the same."""
    constant = constant_operand(node, 1)
    if constant is None or constant.dtype != np.float32 or not np.isfinite(constant).all() or not constant.all():
        return False
    mantissa, exponent = np.frexp(np.abs(constant))
    if not ((mantissa == 0.5) & (np.abs(exponent) < 120)).all():
        return False
    _with_constant(graph, node, elementwise.mul, np.float32(1.0) / constant, "reciprocal", "reciprocal")
    return True


def _with_constant(graph: Graph, node: Node, op: OpDef, array: np.ndarray[Any, Any], what: str, made_by: str) -> None:
    """`made_by`: the op that makes the new constant of the old one, and the old one of the new."""
    x, old = node.inputs
    assert old is not None
    new = graph.add_parameter(f"{old.name}_{what}", np.asarray(array, old.type.dtype.numpy), of=[old])
    graph.changed[new.name] = (old.name, made_by)
    morph(node, op, [x, new])
    drop_unused(graph, old)


@rule(elementwise.mul)
def multiply_by_zero(graph: Graph, node: Node) -> bool:
    """`x * 0` is a constant zero (also where `x` is infinite or not a number)."""
    shape = node.result.shape
    if shape is None or own_scale(node) or not is_scalar(node, 1, 0.0):
        return False
    operands, name = node.operands, node.name
    zero = graph.add_parameter(f"{name}_zero", np.zeros(shape, node.result.type.dtype.numpy))
    graph.replace_uses(node.result, zero)
    graph.erase(node)
    graph.rename(zero, name)
    drop_unused(graph, *operands)
    return True


@rule(elementwise.pow_)
def scalar_power(graph: Graph, node: Node) -> bool:
    """A power with a constant scalar exponent is `pow_scalar`."""
    x, exponent = node.inputs[0], constant_operand(node, 1)
    if x is None or not x.type.dtype.is_float or exponent is None or exponent.ndim or not np.isfinite(exponent):
        return False
    old = node.inputs[1]
    morph(node, "pow_scalar", [x], {"exponent": float(exponent)})
    drop_unused(graph, old)
    return True


@rule(activation.clamp)
def clamp_to_relu(graph: Graph, node: Node) -> bool:
    """A clamp from 0 up without an upper bound is `relu`."""
    if node.attributes["min"] != 0.0 or node.attributes["max"] not in (None, math.inf):
        return False
    morph(node, activation.relu, node.inputs)
    return True


@rule(elementwise.maximum)
def maximum_to_relu(graph: Graph, node: Node) -> bool:
    """The maximum of `x` and 0 is `relu`."""
    if not is_scalar(node, 1, 0.0) or own_scale(node):
        return False
    x, zero = node.inputs
    morph(node, activation.relu, [x])
    drop_unused(graph, zero)
    return True
