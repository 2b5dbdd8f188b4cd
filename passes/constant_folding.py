"""`constant-folding`: what can be computed at compile time becomes a constant. A part of `canonicalize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hqc.ir import Graph, Node, Value
from hqc.ir.costs import macs
from hqc.ir.evaluate import evaluate_node
from hqc.passes.base import Pass, PassContext, PassResult
from hqc.passes.registry import register_pass
from hqc.passes.rewrite import drop_unused

LIMIT = 1 << 24
"""Largest result in elements: larger constants are cheaper to compute than to keep."""
MACS_LIMIT = 1 << 28
"""Most multiply-accumulates that are worth doing at compile time: a fraction of a second."""


@register_pass
@dataclass(frozen=True)
class ConstantFolding(Pass):
    """Replace nodes whose operands are all constants by their results.

    Results larger than 16 million elements are left to be computed. `canonicalize` does the same on its way.
    """

    name: ClassVar[str] = "constant-folding"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        changed = False
        for node in graph.nodes:
            changed |= fold_constant(graph, node)
        return PassResult(changed)


def foldable(node: Node) -> bool:
    """True when all operands are unquantized constants, and the result is declared, not huge and cheap to compute."""
    operands = node.operands
    if node.op.compute is None or not operands:
        return False
    if not all(value.is_parameter and value.quant is None for value in operands):
        return False
    if any(value.quant is not None or (value.type.size or 0) > LIMIT for value in node.results):
        return False
    return (macs(node) or 0) <= MACS_LIMIT


def fold_constant(graph: Graph, node: Node) -> bool:
    """Replace `node` by parameters that have its results' names; True when it could be computed."""
    if not foldable(node):
        return False
    arrays, old, operands = evaluate_node(node, node.operand_arrays), list(node.results), node.operands
    new: list[Value] = []
    for value, array in zip(old, arrays, strict=True):
        constant = graph.add_parameter(f"{value.name}_constant", array, of=operands)
        graph.replace_uses(value, constant)
        new.append(constant)
    names = [value.name for value in old]
    graph.erase(node)
    for constant, name in zip(new, names, strict=True):
        graph.rename(constant, name)
    drop_unused(graph, *operands)
    return True
