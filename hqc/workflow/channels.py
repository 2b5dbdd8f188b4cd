"""Which channels of a network may be scaled without changing what it computes: classes of channels that must share a factor.

A convolution may give channel c of its result f times larger if whoever reads it divides by f again. Between the two, values may pass
through operations that hand each channel on and scale with it (ReLU, pooling, additions of values scaled alike, cats, slices): the
operations are asked by computing them on numbers, so no list of ops is kept here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.ir import Graph, Node, Trait, Value
from hqc.ir.evaluate import evaluate_node
from hqc.passes.conv_scales import result_axis

Array = npt.NDArray[Any]
LARGEST = 1 << 22
"""Elements of an operand beyond which an operation is not asked: its channels are left alone."""
Key = tuple[str, int]  # value and channel


@dataclass
class ChannelClass:
    """Channels that share a factor. `made`: (node, output channel) of the layers that scale them up; `read`: (node, input channel) of
    those that scale them down; `values`: (value, channel) in between."""

    made: list[tuple[Node, int]] = field(default_factory=list)
    read: list[tuple[Node, int]] = field(default_factory=list)
    values: list[Key] = field(default_factory=list)


def channel_classes(graph: Graph, layers: set[str]) -> list[ChannelClass]:
    """The classes of a float or scaled graph that may be scaled; `layers`: names of conv-like nodes whose weights may change."""
    finder = _Finder(graph, layers)
    for value in (*graph.inputs, *graph.outputs):
        finder.freeze(value)
    for node in graph.nodes:
        finder.visit(node)
    return finder.classes()


class _Finder:
    def __init__(self, graph: Graph, layers: set[str]) -> None:
        self.graph, self.layers = graph, layers
        self.parent: dict[Key, Key] = {}
        self.frozen: set[Key] = set()
        self.made: dict[Key, list[tuple[Node, int]]] = {}
        self.read: dict[Key, list[tuple[Node, int]]] = {}

    # --- union-find --------------------------------------------------------------------------------------------------

    def find(self, key: Key) -> Key:
        root = key
        while self.parent.setdefault(root, root) != root:
            root = self.parent[root]
        while self.parent[key] != root:
            self.parent[key], key = root, self.parent[key]
        return root

    def union(self, a: Key, b: Key) -> None:
        self.parent[self.find(a)] = self.find(b)

    def freeze(self, value: Value) -> None:
        for channel in range(_channels(value)):
            self.find((value.name, channel))
            self.frozen.add((value.name, channel))

    # --- nodes -------------------------------------------------------------------------------------------------------

    def visit(self, node: Node) -> None:
        if node.op.has(Trait.CONV_LIKE) and node.name in self.layers:
            self.visit_layer(node)
        elif not self.passes_on(node):
            for value in (*node.data_operands, *node.results):
                self.freeze(value)

    def visit_layer(self, node: Node) -> None:
        x, residual, result = node.operand("x"), node.operand("residual"), node.result
        assert x is not None
        if _axis(x) != _layer_axis(node, x) or _axis(result) != result_axis(node):
            for value in (x, result):
                self.freeze(value)
            return
        for channel in range(_channels(x)):
            self.read.setdefault((x.name, channel), []).append((node, channel))
        for channel in range(_channels(result)):
            self.made.setdefault((result.name, channel), []).append((node, channel))
            if residual is not None:
                self.union((residual.name, channel), (result.name, channel))
        if not _scales(node):
            self.freeze(result)

    def passes_on(self, node: Node) -> bool:
        """True when every channel of the result is a channel of the operands, or a combination of channels with one factor."""
        operands = list(dict.fromkeys(node.data_operands))
        if len(node.results) < 1 or not operands or any(value is not None and value.is_parameter for value in node.inputs):
            return False
        if any(not value.type.dtype.is_float or _channels(value) == 0 for value in (*operands, *node.results)):
            return False
        if node.op.has(Trait.BOUNDARY):
            for channel in range(_channels(operands[0])):
                self.union((operands[0].name, channel), (node.result.name, channel))
            return True
        if node.op.compute is None or any((value.type.size or LARGEST + 1) > LARGEST for value in operands):
            return False
        return self.traced(node, operands, same=False) or self.traced(node, operands, same=True)

    def traced(self, node: Node, operands: Sequence[Value], *, same: bool) -> bool:
        """Compute the node on random numbers and on the same with each channel scaled by a number of its own; `same`: by one number in all
        operands. What each result channel is scaled by says which channel it is."""
        rng = np.random.default_rng(0)
        arrays = {value.name: rng.standard_normal(value.shape).astype(np.float32) for value in operands}
        counts = {_channels(value) for value in operands}
        if same and (len(operands) < 2 or len(counts) > 1):
            return False
        shared = rng.permutation(np.linspace(0.5, 2.0, max(counts)))
        tags: list[tuple[float, Key]] = []
        scaled = {}
        for index, value in enumerate(operands):
            own = shared if same else rng.permutation(np.linspace(0.5 + index * 2, 2.0 + index * 2, _channels(value)))
            tags += [(float(factor), (value.name, channel)) for channel, factor in enumerate(own)]
            scaled[value.name] = arrays[value.name] * own.astype(np.float32).reshape(_broadcast(value))
        before = evaluate_node(node, [None if value is None else arrays[value.name] for value in node.inputs])
        after = evaluate_node(node, [None if value is None else scaled[value.name] for value in node.inputs])
        factors = np.array([factor for factor, _ in tags])
        links: list[tuple[Key, Key]] = []
        for value, a, b in zip(node.results, before, after, strict=True):
            for channel in range(_channels(value)):
                x, y = np.take(a, channel, _axis(value)).ravel(), np.take(b, channel, _axis(value)).ravel()
                factor = float(np.abs(y).sum() / max(np.abs(x).sum(), 1e-30))
                near = np.abs(factors - factor) < 1e-4 * factor
                if not near.any() or not np.allclose(y, x * factor, rtol=1e-3, atol=1e-5):
                    return False
                if near.sum() > (len(operands) if same else 1):
                    return False  # too many channels to tell apart
                links += [(tags[int(index)][1], (value.name, channel)) for index in np.flatnonzero(near)]
        for a_key, b_key in links:
            self.union(a_key, b_key)
        return True

    # --- result ------------------------------------------------------------------------------------------------------

    def classes(self) -> list[ChannelClass]:
        frozen = {self.find(key) for key in self.frozen}
        found: dict[Key, ChannelClass] = {}
        for key in [*self.parent, *self.made, *self.read]:
            root = self.find(key)
            if root not in frozen and key not in found.setdefault(root, ChannelClass()).values:
                found[root].values.append(key)
        for attribute, entries in (("made", self.made), ("read", self.read)):
            for key, nodes in entries.items():
                if self.find(key) not in frozen:
                    getattr(found[self.find(key)], attribute).extend(nodes)
        return [each for each in found.values() if each.made and each.read]


def _scales(node: Node) -> bool:
    """The result of a layer scales with its weights."""
    return node.attributes["activation"] in ("none", "relu")


def _axis(value: Value) -> int:
    """The axis of channels: 1, and the last one of what linear layers work on."""
    rank = value.type.rank or 0
    return 1 if rank in (2, 4) else rank - 1


def _layer_axis(node: Node, x: Value) -> int:
    rank = x.type.rank or 0
    return rank - 1 if result_axis(node) == (node.result.type.rank or 0) - 1 and rank != 4 else 1


def _channels(value: Value) -> int:
    shape = value.shape
    return 0 if shape is None or len(shape) < 2 else int(shape[_axis(value)])


def _broadcast(value: Value) -> list[int]:
    shape = [1] * (value.type.rank or 0)
    shape[_axis(value)] = -1
    return shape
