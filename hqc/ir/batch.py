"""A graph for another batch size.

The batch is the outermost dimension of every value that depends on an input, alone or merged with others (`[N*4, 25]`), so a
value's size is a multiple of the batch size. An op whose result does not grow with the batch mixes samples and is refused.
"""

from __future__ import annotations

from hqc.errors import ShapeError
from hqc.ir.graph import Graph, Node
from hqc.ir.op import Trait
from hqc.ir.types import Shape, TensorType


def with_batch(graph: Graph, batch: int) -> Graph:
    """A copy of `graph` whose inputs have `batch` as their first dimension; see `Graph.with_batch`."""
    old = _batch_of(graph)
    if batch < 1:
        raise ShapeError(f"a batch has at least one sample, got {batch}")
    other = graph.clone()
    if batch == old:
        return other
    dependent: set[int] = set()
    for value in other.inputs:
        assert value.shape is not None
        value.type = value.type.with_shape((batch, *value.shape[1:]))
        dependent.add(id(value))
    for node in other.nodes:
        depends = any(id(value) in dependent for value in node.operands)
        if not depends:
            continue
        dependent.update(id(value) for value in node.results)
        for value, type in zip(node.results, _rebatched(node, old, batch), strict=True):
            value.type = type
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


def _rebatched(node: Node, old: int, new: int) -> list[TensorType]:
    """Result types of `node` whose operands have the new batch; a target shape that spells the batch out is adapted."""
    before = [value.type for value in node.results]
    if node.op.has(Trait.OPAQUE):
        return [_first_replaced(type, old, new) for type in before]
    after, problem = _inferred(node, before, old, new)
    target = node.attributes.get("shape")
    if problem and target and target[0] > 0 and target[0] % old == 0:
        node.attributes["shape"] = (target[0] // old * new, *target[1:])
        after, problem = _inferred(node, before, old, new)
    if problem:
        where = f"{node.name} [{node.loc}]" if str(node.loc) else node.name
        raise ShapeError(f"{where}: {node.op.name} cannot take a batch of {new} instead of {old}: {problem}")
    return after


def _inferred(node: Node, before: list[TensorType], old: int, new: int) -> tuple[list[TensorType], str]:
    """Inferred types and what is wrong with them, "" when nothing is."""
    try:
        inferred = node.op.infer([None if value is None else value.type for value in node.inputs], node.attributes)
    except ShapeError as error:
        return before, str(error)
    if node.op.has(Trait.BOUNDARY):
        inferred = [type.with_dtype(known.dtype) for type, known in zip(inferred, before, strict=True)]
    for type, known in zip(inferred, before, strict=True):
        if type.size is not None and known.size is not None and type.size * old != known.size * new:
            return before, f"its result would be {type}, before it was {known}, so it mixes the samples of a batch"
    return inferred, ""


def _first_replaced(type: TensorType, old: int, new: int) -> TensorType:
    shape: Shape | None = type.shape
    return type.with_shape((new, *shape[1:])) if shape and shape[0] == old else type
