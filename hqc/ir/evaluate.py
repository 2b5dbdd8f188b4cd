"""What nodes and graphs of real numbers compute, by the ops' own declarations: for folding, for tests, and for doubt.

Arithmetic, comparisons and layout ops give the bits of torch's float32. Functions (exp, tanh, a power, ...), sums and products are
computed in float64 and rounded once, so they can differ from torch's float32 in the last place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.errors import InputError
from hqc.ir.graph import Graph
from hqc.ir.nodes import Node

Array = npt.NDArray[Any]


def evaluate_node(node: Node, arrays: Sequence[Any]) -> list[Array]:
    """The results of a node whose op declares what it computes, with the results' dtypes; `arrays`: all operands by position."""
    assert node.op.compute is not None, node
    with np.errstate(all="ignore"):
        computed = node.op.compute(arrays, node.attributes)
        results = computed if isinstance(computed, list) else [computed]
        return [
            np.ascontiguousarray(array, value.type.dtype.numpy).reshape(np.shape(array))  # keeps rank 0
            for array, value in zip(results, node.results, strict=True)
        ]


def evaluate(graph: Graph, inputs: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
    """Every value of a graph of real numbers, by name. `InputError` for an input that is missing and an op that declares nothing."""
    values: dict[str, Array] = {}
    for value in graph.inputs:
        if value.name not in inputs:
            raise InputError(f"input {value.name} is missing")
        values[value.name] = np.asarray(inputs[value.name], value.type.dtype.numpy)
    values.update({name: value.array for name, value in graph.parameters.items() if value.array is not None})
    for node in graph.nodes:
        if node.op.compute is None:
            raise InputError(f"{node.label}: what {node.op.name} computes is not declared; run the graph with a back end")
        results = evaluate_node(node, [None if value is None else values[value.name] for value in node.inputs])
        values.update({value.name: array for value, array in zip(node.results, results, strict=True)})
    return values
