"""Comparisons of a real value with what the BPU selected from it on its grid: `x == max_pool(x)`, where only the pool runs there.

Whoever looks for peaks so finds none: a rounded value is hardly ever equal to the real one. Where both come from the grid they are.
"""

from __future__ import annotations

from collections.abc import Iterator

from hqc.ir import Graph, Node, Trait, Value
from hqc.passes.node_facts import is_quantize, is_real, on_bpu

_COMPARES = (Trait.ELEMENTWISE, Trait.INTEGER_RESULT, Trait.SELECTS)
_HANDS_ON = (Trait.LAYOUT_ONLY, Trait.PASS_THROUGH, Trait.SELECTS, Trait.BOUNDARY)


def never_equal(graph: Graph) -> Iterator[tuple[Node, str]]:
    """Such comparisons in a graph with boundaries, each with a sentence that says what to do."""
    for node in graph.nodes:
        if len(node.data_operands) != 2 or not all(map(node.op.has, _COMPARES)) or not all(map(is_real, node.data_operands)):
            continue
        first, second = (_origins(value) for value in node.data_operands)
        for real, rounded in ((first, second), (second, first)):
            common = next((name for name, steps in rounded.items() if steps and real.get(name) == ()), None)
            if common is not None:
                steps = ", ".join(sorted({step.origin[-1] for step in rounded[common] if step.origin}))
                yield (
                    node,
                    f"{common} is compared with what {steps} selects from it on the BPU, where it is rounded, so they are hardly ever "
                    f"equal; place {steps} on the CPU with hybrid_dict, too",
                )
                break


def _origins(value: Value) -> dict[str, tuple[Node, ...]]:
    """The values that `value` holds elements of, by name, each with the operations on the BPU that lie between, behind a quantize."""
    found: dict[str, tuple[Node, ...]] = {}
    steps: tuple[Node, ...] = ()
    rounded: tuple[Node, ...] = ()
    current = value
    while True:
        found[current.name] = rounded
        node = current.producer
        if node is None or not node.data_operands or not any(map(node.op.has, _HANDS_ON)):
            return found
        if on_bpu(node):
            steps = (*steps, node)
        elif is_quantize(node):
            rounded = steps
        current = node.data_operands[0]
