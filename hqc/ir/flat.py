"""Graphs as flat tuples: what pickling and deep-copying need, since a graph's own links run as deep as the network is long.

Ops travel by name, so whoever reads a graph must have the ops of the user registered, as a spawned worker has once it imported
what declares them.
"""

from __future__ import annotations

from typing import Any

from hqc.ir.graph import Graph
from hqc.ir.nodes import Node, Value

Flat = tuple[Any, ...]


def flatten(graph: Graph) -> Flat:
    """Everything that `graph` is, in tuples of a depth that does not grow with the graph."""
    sources = [*graph.inputs, *graph.parameters.values()]
    index = {id(value): position for position, value in enumerate(sources)}
    values = [(value.name, value.type, value.array, value.quant, value.observation, value.trains) for value in sources]
    nodes = []
    for node in graph.nodes:
        operands = [None if value is None else index[id(value)] for value in node.inputs]
        results = []
        for value in node.results:
            index[id(value)] = len(index)
            results.append((value.name, value.type, value.quant, value.observation))
        marks = (node.device, node.subgraph, node.support, node.request)
        nodes.append((node.op, node.attributes, node.loc, node.origin, marks, operands, results))
    outputs = [index[id(value)] for value in graph.outputs]
    replaced = {name: index[id(value)] for name, value in graph._replaced.items() if id(value) in index}
    head = (graph.name, graph.march, graph.stage, sorted(graph.properties), graph.locations, graph.changed)
    return head, len(graph.inputs), values, nodes, outputs, list(graph.output_names), replaced


def rebuild(flat: Flat) -> Graph:
    """The graph that was flattened."""
    head, inputs, sources, nodes, outputs, output_names, replaced = flat
    name, march, stage, properties, locations, changed = head
    graph = Graph(name, march)
    graph.stage, graph.properties, graph.locations, graph.changed = stage, set(properties), dict(locations), dict(changed)
    values: list[Value] = []
    for name, type, array, quant, observation, trains in sources:
        value = graph._new_value(name, type, None, array)
        value.quant, value.observation, value.trains = quant, observation, trains
        values.append(value)
    graph.inputs = values[:inputs]
    for op, attributes, loc, origin, marks, operands, results in nodes:
        node = Node(graph, op, dict(attributes), loc, origin)
        node.device, node.subgraph, node.support, node.request = marks
        node.set_inputs([None if position is None else values[position] for position in operands])
        for name, type, quant, observation in results:
            value = graph._new_value(name, type, node, None)
            value.quant, value.observation = quant, observation
            node.results.append(value)
            values.append(value)
        graph._place(node, None, None)
    graph._replaced = {name: values[position] for name, position in replaced.items()}
    graph.set_outputs([values[position] for position in outputs], output_names)
    return graph


def copied(graph: Graph) -> Graph:
    """A copy that shares nothing which is ever changed; parameter arrays are never written, and shared."""
    return rebuild(flatten(graph))


def node_of(graph: Graph, name: str) -> Node:
    """The node whose first result is called `name`: how a node travels with its graph."""
    node = graph.value(name).producer
    assert node is not None
    return node


def result_of(node: Node, position: int) -> Value:
    """A result of a node: how such a value travels."""
    return node.results[position]


def operand_of(node: Node, position: int) -> Value:
    """An operand of a node: how a graph input or a parameter travels."""
    value = node.inputs[position]
    assert value is not None
    return value


def alone(name: str, type: Any, array: Any, quant: Any, observation: Any) -> Value:
    """A graph input or parameter that nothing uses: nothing leads from it to its graph."""
    value = Value(name, type, None, array)
    value.quant, value.observation = quant, observation
    return value
