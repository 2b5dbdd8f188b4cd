"""What a graph is at one moment, cheap to take and to compare: how a pipeline tells whether a pass changed anything."""

from __future__ import annotations

from operator import attrgetter, eq
from typing import Any

import numpy as np

from hqc.ir.graph import Graph
from hqc.ir.nodes import Node


class Snapshot:
    """Everything that structural equality looks at. Equal snapshots mean equal texts (but for locations) and equal parameters.

    Names stand for values, parameters are held, not copied: nobody writes into an array that a graph has.
    """

    def __init__(self, graph: Graph) -> None:
        self.header, self.inputs, self.outputs = _ends(graph)
        self.parameters = [(_value(value), value.array) for value in graph.parameters.values()]
        self.nodes = [_node(node) for node in graph.nodes]

    def describes(self, graph: Graph) -> bool:
        """Whether `graph` is that still. Nothing is built to see that, and where it is not, little is looked at."""
        parameters = graph.parameters
        return (
            (self.header, self.inputs, self.outputs) == _ends(graph)
            and (len(self.nodes), len(self.parameters)) == (len(graph), len(parameters))
            and all(map(eq, self.nodes, map(_node, graph.nodes)))
            and all(
                a == _value(b) and _same(x, b.array) for (a, x), b in zip(self.parameters, parameters.values(), strict=True)
            )
        )


def _ends(graph: Graph) -> tuple[Any, list[Any], Any]:
    header = (graph.name, graph.march, graph.stage, frozenset(graph.properties))
    outputs = [value.name for value in graph.outputs], list(graph.output_names)
    return header, [_value(value) for value in graph.inputs], outputs


def _same(a: Any, b: Any) -> bool:
    return a is b or (np.array_equal(a, b, equal_nan=a.dtype.kind == "f") and a.tobytes() == b.tobytes())


_value = attrgetter("name", "type", "quant", "observation")
_placed = attrgetter("op", "device", "subgraph", "support", "request", "origin")


def _node(node: Node) -> tuple[Any, ...]:
    operands = [None if value is None else value.name for value in node._inputs]
    return _placed(node), operands, list(map(_value, node.results)), list(node.attributes.items())
