"""A graph for another batch size.

Shapes are inferred again from inputs with another first dimension. Two things do not follow by inference alone: target
shapes that spell the batch out (`reshape {shape=[1,-1]}` of one sample), which are adapted, and ops whose result does not grow
with the batch, which mix samples and are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hqc.errors import ShapeError
from hqc.ir.graph import Graph
from hqc.ir.nodes import Node
from hqc.ir.op import Trait
from hqc.ir.types import Shape, TensorType

OpaqueTypes = Callable[[Node], Sequence[TensorType]]


def with_batch(graph: Graph, batch: int, opaque_types: OpaqueTypes | None = None) -> Graph:
    """A copy of `graph` whose inputs have `batch` as their first dimension; see `Graph.with_batch`."""
    old = _batch_of(graph)
    if batch < 1:
        raise ShapeError(f"a batch has at least one sample, got {batch}")
    other = graph.clone()
    if batch != old:
        _Rebatch(old, batch, opaque_types).run(other)
    return other


def _batch_of(graph: Graph) -> int:
    sizes: dict[int, str] = {}
    for value in graph.inputs:
        if not value.shape:
            raise ShapeError(f"input {value.name} of type {value.type} has no batch dimension")
        sizes[value.shape[0]] = value.name
    if len(sizes) > 1:
        shown = ", ".join(f"{name} has {size}" for size, name in sizes.items())
        raise ShapeError(f"the inputs disagree on the batch size: {shown}")
    return next(iter(sizes), 1)


def open_batch(graph: Graph) -> bool:
    """Let target shapes that spell the batch out take it from their operand, in place: then the graph's torch form runs any batch.

    False, and nothing changes, where the graph cannot have another batch (see `with_batch`).
    """
    try:
        other = with_batch(graph, _batch_of(graph) + 1)
    except ShapeError:
        return False
    for node, twin in zip(graph.nodes, other.nodes, strict=True):
        target: Shape = node.attributes.get("shape") or ()
        changed: Shape = twin.attributes.get("shape") or ()
        if target == changed:
            continue
        sizes = list(node.results[0].sizes or ())
        axis = next(axis for axis, (size, new) in enumerate(zip(target, changed, strict=True)) if size != new)
        before = node.operands[0].sizes or ()
        # 0 copies the operand's size in a reshape; -1 is what remains there, and the size that there is in an expand.
        copies = node.op.name == "reshape" and axis < len(before) and before[axis] == sizes[axis]
        node.attributes["shape"] = (*sizes[:axis], 0 if copies else -1, *sizes[axis + 1 :])
    return True


class _Rebatch:
    """Types of all values that depend on an input, for `new` instead of `old` samples."""

    def __init__(self, old: int, new: int, opaque_types: OpaqueTypes | None) -> None:
        self.old, self.new, self.opaque_types = old, new, opaque_types
        self.before: dict[int, TensorType] = {}  # of every dependent value, by id

    def run(self, graph: Graph) -> None:
        for value in graph.inputs:
            assert value.shape is not None
            self.before[id(value)] = value.type
            value.type = value.type.with_shape((self.new, *value.shape[1:]))
        for node in graph.nodes:
            if not any(id(value) in self.before for value in node.operands):
                continue
            types = self.result_types(node)
            for value, type in zip(node.results, types, strict=True):
                self.before[id(value)] = value.type
                value.type = type

    def result_types(self, node: Node) -> list[TensorType]:
        known = [value.type for value in node.results]
        if node.op.has(Trait.OPAQUE):
            node.attributes["macs"] = node.attributes["macs"] * self.new // self.old
            if self.opaque_types is not None:
                return list(self.opaque_types(node))
            return [self.first_replaced(type) for type in known]
        self.adapt_target(node)
        try:
            inferred = node.op.infer(node.operand_types, node.attributes)
        except ShapeError as error:
            raise self.refusal(node, str(error)) from None
        if node.op.has(Trait.BOUNDARY):
            inferred = [type.with_dtype(old.dtype) for type, old in zip(inferred, known, strict=True)]
        for type, old in zip(inferred, known, strict=True):
            if type.size is not None and old.size is not None and type.size * self.old != old.size * self.new:
                raise self.refusal(node, f"its result would be {type} after {old}, so it mixes the samples of a batch")
        return inferred

    def first_replaced(self, type: TensorType) -> TensorType:
        shape = type.shape
        return type.with_shape((self.new, *shape[1:])) if shape and shape[0] == self.old else type

    def adapt_target(self, node: Node) -> None:
        """Scale the entry of a `shape` attribute that holds the batch."""
        target: Shape | None = node.attributes.get("shape")
        operand = node.operands[0]
        before, after = self.before.get(id(operand), operand.type).shape, operand.shape
        result = node.results[0].shape
        if not target or before is None or after is None or result is None or before == after:
            return
        axis = next(axis for axis, size in enumerate(before) if size != after[axis])
        if math.prod(before) == math.prod(result):  # elements stay in order: the batch is where as many elements surround it
            outer = math.prod(before[:axis])
            found = next((i for i in range(len(result)) if math.prod(result[:i]) == outer), None)
        else:  # broadcasting counts axes from the right
            found = axis + len(result) - len(before)
        if found is None or target[found] <= 0:
            return
        if result[found] % self.old:
            raise self.refusal(node, f"its shape {list(target)} splits or joins samples")
        size = result[found] // self.old * self.new
        node.attributes["shape"] = (*target[:found], size, *target[found + 1 :])

    def refusal(self, node: Node, problem: str) -> ShapeError:
        return ShapeError(f"{node.label}: {node.op.name} cannot take a batch of {self.new} instead of {self.old}: {problem}")
