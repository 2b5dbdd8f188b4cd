"""Indices that are whole numbers until the BPU puts them on its grid: `x.floor().long()`, where only the conversion runs on the CPU.

A grid of int8 holds 8.99 in the place of 9, and a conversion to integers cuts that to 8.
"""

from __future__ import annotations

from collections.abc import Iterator

from hqc.ir import Graph, Node, Trait, Value
from hqc.passes.node_facts import is_real, on_bpu
from hqc.structures import reached

_HANDS_ON = (Trait.LAYOUT_ONLY, Trait.PASS_THROUGH, Trait.SELECTS, Trait.BOUNDARY, Trait.SUM)


def one_off(graph: Graph) -> Iterator[tuple[Node, str]]:
    """Conversions to integers of what the BPU rounds to whole numbers, each with a sentence that says what to do."""
    for node in graph.nodes:
        asked = node.attributes.get("dtype")
        if asked is None or node.op.has(Trait.BOUNDARY) or asked.is_float or len(node.data_operands) != 1:
            continue
        source = node.data_operands[0].producer
        if not is_real(node.data_operands[0]) or source is None:
            continue
        path = list(reached(source, _before))
        whole = [each for each in path if each.op.has(Trait.WHOLE)]
        steps = [each for each in path if on_bpu(each) and not each.op.has(Trait.PASSIVE) and each.origin]
        if whole and steps:
            yield (
                node,
                f"the whole numbers of {_names(whole)} become integers here, but the BPU rounds them to its grid before, so that 9 may be "
                f"8.99 and its integer 8; place {_names(steps)} on the CPU with hybrid_dict",
            )


def _before(node: Node) -> list[Node]:
    """What made the operands of a node that hands whole numbers on."""
    if node.op.has(Trait.WHOLE) or not any(map(node.op.has, _HANDS_ON)):
        return []
    makers: list[Value] = [value for value in node.data_operands if not value.is_parameter]
    return [value.producer for value in makers if value.producer is not None]


def _names(nodes: list[Node]) -> str:
    return ", ".join(sorted({node.origin[-1] for node in nodes if node.origin}))
