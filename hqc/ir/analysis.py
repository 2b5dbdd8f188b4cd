"""Questions about graphs that passes and the verifier share: equality, order, views for networkx, the quotient graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from hqc.ir.graph import Graph
from hqc.ir.nodes import Node
from hqc.ir.printer import print_graph

if TYPE_CHECKING:
    import networkx


def structurally_equal(a: Graph, b: Graph) -> bool:
    """Same text and same parameter bits. Locations, and orders of creation that the text does not show, do not matter."""
    if a is b:
        return True
    if print_graph(a, locations=False) != print_graph(b, locations=False):
        return False
    for name, value in a.parameters.items():
        left, right = value.array, b.value(name).array
        assert left is not None
        assert right is not None
        if left is not right and left.tobytes() != right.tobytes():
            return False
    return True


def to_networkx(graph: Graph) -> networkx.MultiDiGraph[Any]:
    """Nodes by name (attributes `op`, `device`, `subgraph`), one edge per operand (attribute `value`)."""
    import networkx

    view: networkx.MultiDiGraph[Any] = networkx.MultiDiGraph()
    for node in graph.nodes:
        device = None if node.device is None else node.device.value
        view.add_node(node.name, op=node.op.name, device=device, subgraph=node.subgraph)
    for node in graph.nodes:
        for value in node.operands:
            if value.producer is not None:
                view.add_edge(value.producer.name, node.name, value=value.name)
    return view


def quotient_cycle(graph: Graph, group: Callable[[Node], Hashable | None]) -> list[Node]:
    """Nodes on one cycle of the graph in which each group is contracted to a point; empty when there is none.

    `group(node)` is the node's group, None for a node that stands alone. Linear time; independent of program order, so that it
    can check an algorithm that relies on it.
    """
    keys: dict[Node, Hashable] = {}
    for node in graph.nodes:
        key = group(node)
        keys[node] = ("node", id(node)) if key is None else ("group", key)
    edges: dict[Hashable, dict[Hashable, Node]] = {key: {} for key in keys.values()}
    indegree = dict.fromkeys(edges, 0)
    for node, key in keys.items():
        for producer in node.producers:
            source = keys[producer]
            if source != key and key not in edges[source]:
                edges[source][key] = node
                indegree[key] += 1
    ready = [key for key, count in indegree.items() if count == 0]
    left = dict(indegree)
    while ready:
        key = ready.pop()
        del left[key]
        for target in edges[key]:
            left[target] -= 1
            if left[target] == 0:
                ready.append(target)
    return _walk_cycle(edges, left)


def _walk_cycle(edges: dict[Hashable, dict[Hashable, Node]], left: dict[Hashable, int]) -> list[Node]:
    """One cycle among the points that the topological sort could not remove: walk backwards until a point repeats."""
    if not left:
        return []
    sources: dict[Hashable, tuple[Hashable, Node]] = {}
    for source in left:
        for target, node in edges[source].items():
            sources.setdefault(target, (source, node))
    path: dict[Hashable, Node] = {}
    key = next(key for key in left if key in sources)
    while key not in path:
        source, node = sources[key]
        path[key] = node
        key = source
    keys = list(path)
    return [path[k] for k in reversed(keys[keys.index(key) :])]
