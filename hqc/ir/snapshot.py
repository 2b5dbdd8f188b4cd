"""What a graph is at one moment, cheap to take and to compare: how a pipeline tells whether a pass changed anything."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np

from hqc.ir.graph import Graph
from hqc.ir.nodes import Node


class Snapshot:
    """Everything that structural equality looks at. Equal snapshots mean equal texts (but for locations) and equal parameters.

    Names stand for values, parameters are held, not copied: nobody writes into an array that a graph has.
    """

    def __init__(self, graph: Graph) -> None:
        self.header = (graph.name, graph.march, graph.stage, frozenset(graph.properties))
        self.inputs = [_value(value) for value in graph.inputs]
        self.parameters = [(_value(value), value.array) for value in graph.parameters.values()]
        self.nodes = [_node(node) for node in graph.nodes]
        self.outputs = ([value.name for value in graph.outputs], list(graph.output_names))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Snapshot)
            and self.header == other.header
            and self.inputs == other.inputs
            and self.nodes == other.nodes
            and self.outputs == other.outputs
            and len(self.parameters) == len(other.parameters)
            and all(a == b and _same(x, y) for (a, x), (b, y) in zip(self.parameters, other.parameters, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]


def _same(a: Any, b: Any) -> bool:
    return a is b or (np.array_equal(a, b, equal_nan=a.dtype.kind == "f") and a.tobytes() == b.tobytes())


_value = attrgetter("name", "type", "quant", "observation")
_placed = attrgetter("op", "device", "subgraph", "support", "request", "origin")


def _node(node: Node) -> tuple[Any, ...]:
    operands = [None if value is None else value.name for value in node._inputs]
    return _placed(node), operands, list(map(_value, node.results)), list(node.attributes.items())
