"""`constant-folding`: what can be computed at compile time becomes a constant. A part of `canonicalize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hqc.ir import Graph, Node, Value
from hqc.passes.base import Pass, PassContext, PassResult
from hqc.passes.evaluate import evaluable, evaluate
from hqc.passes.registry import register_pass
from hqc.passes.rewrite import drop_unused


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


def fold_constant(graph: Graph, node: Node) -> bool:
    """Replace `node` by parameters that have its results' names; True when it could be computed."""
    if not evaluable(node):
        return False
    arrays, old, operands = evaluate(node), list(node.results), node.operands
    new: list[Value] = []
    for value, array in zip(old, arrays, strict=True):
        constant = graph.add_parameter(f"{value.name}_constant", array)
        graph.replace_uses(value, constant)
        new.append(constant)
    names = [value.name for value in old]
    graph.erase(node)
    for constant, name in zip(new, names, strict=True):
        graph.rename(constant, name)
    drop_unused(graph, *operands)
    return True
