"""Which values share one scale: the march's scale-keeping nodes tie operand and results, and so do cats that cannot requantize.

`prepare` gives the members of a shared group one fake quant, `unify-cat-scales` gives them one scale; both ask here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hqc.ir import Graph, Node, Trait, Value
from hqc.march.spec import MarchSpec
from hqc.passes.node_facts import is_dequantize, is_quantize, is_real, on_bpu


@dataclass(frozen=True)
class ScaleGroup:
    """Values with one scale. `values` and `demanded_by` (the cats that tie them) are in program order."""

    values: tuple[Value, ...]
    demanded_by: tuple[Node, ...] = ()

    @property
    def producers(self) -> Iterator[tuple[Node, Value]]:
        """The nodes that produce members, with the member."""
        for value in self.values:
            if value.producer is not None:
                yield value.producer, value

    def __len__(self) -> int:
        return len(self.values)


def shares_scale(node: Node, march: MarchSpec) -> bool:
    """True for a node whose operands and results must have one scale because the march cannot requantize there."""
    return on_bpu(node) and node.op.has(Trait.SAME_SCALE) and not march.requantize_at_cat


def tied_values(node: Node, march: MarchSpec) -> list[Value]:
    """The values that this node alone ties together; empty for most nodes."""
    if not on_bpu(node):
        return []
    if shares_scale(node, march):
        tied: Iterable[Value | None] = [*node.inputs, *node.results]
    elif march.keeps_scale(node):
        tied = [node.inputs[0], *node.results]
    else:
        return []
    return [value for value in tied if value is not None and is_real(value) and not _free_constant(value)]


def _free_constant(value: Value) -> bool:
    """A constant is quantized for each consumer; only one with a scale of its own takes part in a group."""
    return value.is_parameter and value.quant is None


def scale_groups(graph: Graph, march: MarchSpec) -> list[ScaleGroup]:
    """Every group of values that BPU nodes tie together, and every other real BPU or quantized value by itself.

    Linear time. Groups are ordered by their first member; graph inputs and parameters come before node results.
    """
    order: dict[int, int] = {}
    values: list[Value] = []
    for value in _candidates(graph, march):
        if id(value) not in order:
            order[id(value)] = len(values)
            values.append(value)
    parent = list(range(len(values)))

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    demands: dict[int, list[Node]] = {}
    for node in graph.nodes:
        tied = tied_values(node, march)
        for value in tied[1:]:
            a, b = find(order[id(tied[0])]), find(order[id(value)])
            parent[max(a, b)] = min(a, b)
        if tied and shares_scale(node, march):
            demands.setdefault(order[id(tied[0])], []).append(node)
    members: dict[int, list[Value]] = {}
    for index, value in enumerate(values):
        members.setdefault(find(index), []).append(value)
    demanded: dict[int, list[Node]] = {}
    for index, nodes in demands.items():
        demanded.setdefault(find(index), []).extend(nodes)
    return [
        ScaleGroup(tuple(group), tuple(sorted(demanded.get(root, ()), key=lambda node: node._order)))
        for root, group in members.items()
    ]


def shared_scale_groups(graph: Graph, march: MarchSpec) -> list[ScaleGroup]:
    """The groups that a cat demands on this march: none where cats requantize. Works on graphs from `partitioned` on."""
    if march.requantize_at_cat:
        return []
    return [group for group in scale_groups(graph, march) if group.demanded_by]


def _candidates(graph: Graph, march: MarchSpec) -> Iterator[Value]:
    """Values a group may hold: parameters and graph inputs that BPU nodes tie, then results, in program order."""
    for node in graph.nodes:
        if on_bpu(node):
            yield from (v for v in tied_values(node, march) if v.producer is None)
    for node in graph.nodes:
        if on_bpu(node) or is_quantize(node):
            yield from (value for value in node.results if is_real(value))
        elif not is_dequantize(node):
            # Results of CPU nodes count only where a BPU node ties them, as in graphs whose boundaries are not in yet.
            yield from (value for value in node.results if is_real(value) and any(map(on_bpu, value.users)))
