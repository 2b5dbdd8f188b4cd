"""A model cut at some of its values: pieces that compute other values from these, small enough to run one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping

import onnx

from hqc.backends.onnx.skeleton import Skeleton

GIVEN = "{}/given"
"""The input of a piece that stands for a value."""


class CutModel:
    """`skeleton`, of which pieces can be made that take some values (`cut`, given with every question) as they are given."""

    def __init__(self, skeleton: Skeleton) -> None:
        graph = skeleton.model.graph
        self._skeleton = skeleton
        self._nodes = list(graph.node)
        self._producers = {name: index for index, node in enumerate(self._nodes) for name in node.output if name}
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._types = {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}
        self._inputs = {info.name for info in graph.input}

    def piece(self, names: Collection[str], cut: Collection[str]) -> tuple[Skeleton, list[str]]:
        """A model whose outputs are `names`, and whose inputs are no more of the model's, and of the cut values, than it needs; and those
        cut values, each to be given as `GIVEN`. Also what is cut is computed where it is asked for."""
        found, read = self._needed(names, cut)
        piece = onnx.ModelProto()
        piece.CopyFrom(_without_graph(self._skeleton.model))
        graph = piece.graph
        graph.name = self._skeleton.model.graph.name
        given = {name: GIVEN.format(name) for name in read if name in cut}
        for index in sorted(found):
            node = graph.node.add()
            node.CopyFrom(self._nodes[index])
            _rename(node, given)
        graph.initializer.extend(self._initializers[name] for name in read if name in self._initializers)
        graph.input.extend(self._types[name] for name in read if name in self._inputs and name not in self._initializers)
        for name, called in given.items():
            info = graph.input.add()
            info.CopyFrom(self._types[name])
            info.name = called
        graph.output.extend(self._types[name] for name in names)
        constants = self._skeleton.constants
        return Skeleton(piece, {name: constants[name] for name in read if name in constants}), list(given)

    def readers(self) -> Readers:
        """Who reads what in the model."""
        outputs = {info.name for info in self._skeleton.model.graph.output}
        return Readers([(frozenset(_reads(node)), [name for name in node.output if name]) for node in self._nodes], outputs)

    def _needed(self, names: Collection[str], cut: Collection[str]) -> tuple[set[int], dict[str, None]]:
        """The nodes that compute `names` from cut values, and all that these nodes read, in a definite order."""
        found: set[int] = set()
        read: dict[str, None] = {}
        pending = [self._producers[name] for name in names]
        while pending:
            index = pending.pop()
            if index in found:
                continue
            found.add(index)
            for name in _reads(self._nodes[index]):
                read[name] = None
                if name not in cut and name in self._producers:
                    pending.append(self._producers[name])
        return found, read


class Readers:
    """For whom values are still needed, while one after the other is done with.

    A value is done with when it was computed by itself, or when all that is computed from it is. The model's outputs never are.
    """

    def __init__(self, nodes: Iterable[tuple[Collection[str], Collection[str]]], outputs: Collection[str]) -> None:
        """`nodes`: what each reads and what it makes."""
        self._operands: dict[str, Collection[str]] = {}
        self._waiting: Counter[str] = Counter()
        self._done: set[str] = set(outputs)
        for reads, made in nodes:
            self._operands.update(dict.fromkeys(made, reads))
            for name in reads:
                self._waiting[name] += len(made)

    def done(self, name: str, taken: Container[str]) -> Iterator[str]:
        """`name` is done with; which of the values in `taken`, that are given where they are read, nothing needs any more."""
        pending = [name]
        while pending:
            each = pending.pop()
            if each in self._done:
                continue
            self._done.add(each)
            for operand in self._operands.get(each, ()):
                self._waiting[operand] -= 1
                if not self._waiting[operand]:
                    if operand in taken:
                        yield operand
                    else:
                        pending.append(operand)

    def is_needed(self, name: str) -> bool:
        return self._waiting[name] > 0


def pieces_of(sizes: Mapping[str, int], most: int) -> Iterator[list[str]]:
    """The names in order, cut where their sizes together would exceed `most`."""
    piece: list[str] = []
    total = 0
    for name, size in sizes.items():
        if piece and total + size > most:
            yield piece
            piece, total = [], 0
        piece.append(name)
        total += size
    if piece:
        yield piece


def _without_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    bare = onnx.ModelProto()
    for each, value in model.ListFields():
        if each.name != "graph":
            if hasattr(value, "extend"):
                getattr(bare, each.name).extend(value)
            else:
                setattr(bare, each.name, value)
    return bare


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, the graphs among its attributes included."""
    yield from filter(None, node.input)
    for inner in _bodies(node):
        made = {name for each in inner.node for name in each.output} | {info.name for info in inner.input}
        for each in inner.node:
            yield from (name for name in _reads(each) if name not in made)


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    for index, name in enumerate(node.input):
        node.input[index] = names.get(name, name)
    for inner in _bodies(node):
        for each in inner.node:
            _rename(each, names)


def _bodies(node: onnx.NodeProto) -> Iterable[onnx.GraphProto]:
    return (attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH)
