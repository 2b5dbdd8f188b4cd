"""A model cut at some of its values: pieces that compute other values from these, small enough to run one after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

import onnx

from hqc.backends.onnx.skeleton import Skeleton

GIVEN = "{}/given"
"""The input of a piece that stands for a value."""


class CutModel:
    """`skeleton` in which every operation that reads a value of `cut` takes it as it is given."""

    def __init__(self, skeleton: Skeleton, cut: Collection[str]) -> None:
        graph = skeleton.model.graph
        self._skeleton, self._cut = skeleton, frozenset(cut)
        self._nodes = list(graph.node)
        self._producers = {name: index for index, node in enumerate(self._nodes) for name in node.output if name}
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._types = {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}
        self._inputs = {info.name for info in graph.input}

    def reads(self, names: Collection[str]) -> list[str]:
        """The values that must be given to `piece`, as `GIVEN`."""
        return [name for name in self._needed(names)[1] if name in self._cut]

    def piece(self, names: Collection[str]) -> Skeleton:
        """A model whose outputs are `names`, and whose inputs are no more of the model's, and of the cut values, than it needs."""
        found, read = self._needed(names)
        piece = onnx.ModelProto()
        piece.CopyFrom(_without_graph(self._skeleton.model))
        graph = piece.graph
        graph.name = self._skeleton.model.graph.name
        given = {name: GIVEN.format(name) for name in read if name in self._cut}
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
        return Skeleton(piece, {name: constants[name] for name in read if name in constants})

    def _needed(self, names: Collection[str]) -> tuple[set[int], dict[str, None]]:
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
                if name not in self._cut and name in self._producers:
                    pending.append(self._producers[name])
        return found, read


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
