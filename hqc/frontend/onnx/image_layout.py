"""What a file computes on images of layout NHWC, between transposes, is computed on NCHW.

Converters of TensorFlow write a transpose before and one behind every convolution and leave it to an optimizer to take them out; where it
gives up (an operation it does not know, a failure), they stay between all layers. Only what makes the graph have fewer transposes is moved.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hqc.ir import Graph, Node, Trait, Value

_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""Transposes to channels last, and back: axis i of the result is axis `_LAST[i]` of the operand."""
_ONE_AXIS = frozenset({"cat", "split", "softmax", "log_softmax"})
_SEVERAL_AXES = frozenset({"mean", "sum", "reduce_max", "reduce_min", "slice"})


def read_image_layout(graph: Graph) -> None:
    """Move computations on NHWC between transposes to NCHW, in place."""
    for part in _parts(graph):
        if part.gain > 0:
            part.move()


@dataclass
class _Part:
    """Nodes that compute on NHWC from one another. `entries`: the transposes that they read; `exits`: those that read them."""

    graph: Graph
    nodes: list[Node] = field(default_factory=list)
    entries: dict[Node, None] = field(default_factory=dict)
    exits: dict[Node, None] = field(default_factory=dict)
    others: dict[Value, None] = field(default_factory=dict)
    """Values that something else reads."""

    @property
    def gain(self) -> int:
        inside = {*self.nodes, *self.exits}
        freed = sum(
            all(user in inside for user in node.users) and not self.graph.is_output(node.result) for node in self.entries
        )
        return freed + len(self.exits) - len(self.others)

    def move(self) -> None:
        graph, inside = self.graph, set(self.nodes)
        readers = {value: [use for use in value._uses.values() if use[0] not in inside] for value in self.others}
        for node in self.nodes:
            self._turn(node)
        for value, uses in readers.items():
            assert value.producer is not None
            after = min((user for user, _ in uses), key=lambda user: user.order)
            name = graph.unique_name(f"{value.name}_channels_last")
            turned = graph.add_node(
                "transpose", [value], {"perm": _LAST}, name=name, loc=value.producer.loc, origin=(name,), before=after
            )
            for user, index in uses:
                if user not in self.exits:
                    user.set_input(index, turned.result)
        for node in self.exits:
            graph.replace_uses(node.result, node.operands[0])
            graph.erase(node)
        graph.remove_dead_code()

    def _turn(self, node: Node) -> None:
        rank_stays = node.results[0].type.rank == 4
        for index, value in enumerate(node.inputs):
            if value is None:
                continue
            if value.is_parameter:
                if value.array is not None and value.array.size > 1:
                    array = value.array.reshape((1,) * (4 - value.array.ndim) + value.array.shape).transpose(_FIRST)
                    name = self.graph.unique_name(f"{value.name}_channels_first")
                    node.set_input(index, self.graph.add_parameter(name, np.ascontiguousarray(array)))
            elif value.producer in self.entries:
                node.set_input(index, value.producer.operands[0])
        a = dict(node.attributes)
        if node.op.name in _ONE_AXIS:
            a["axis"] = _LAST[a["axis"] % 4]
        elif node.op.name in _SEVERAL_AXES:
            a["axes"] = tuple(_LAST[axis % 4] for axis in a["axes"])
        elif node.op.name == "pad":
            pads = np.reshape(a["pads"], (2, 4))[:, _FIRST]
            a["pads"] = tuple(int(item) for item in pads.reshape(-1))
        node.attributes = a
        if rank_stays:
            for value, type in zip(node.results, node.infer_types(), strict=True):
                value.type = type


def _parts(graph: Graph) -> list[_Part]:
    """The connected parts of what computes on NHWC, in program order."""
    part_of: dict[Node, _Part] = {}
    for node in list(graph.nodes):
        if not _can_turn(graph, node):
            continue
        data = [value for value in node.operands if not value.is_parameter]
        makers = [value.producer for value in data]
        if not data or not all(maker is not None and (maker in part_of or _is(maker, _LAST)) for maker in makers):
            continue
        part = _Part(graph)
        for maker in makers:
            assert maker is not None
            joined = part_of.get(maker)
            if joined is None:
                part.entries[maker] = None
            elif joined is not part:
                joined.nodes += part.nodes
                joined.entries.update(part.entries)
                for each in part.nodes:
                    part_of[each] = joined
                part = joined
        part.nodes.append(node)
        part_of[node] = part
    parts = list({id(part): part for part in part_of.values()}.values())
    for part in parts:
        part.nodes.sort(key=lambda node: node.order)
        for node in part.nodes:
            if node.results[0].type.rank != 4:
                continue  # what it makes has no layout of images
            for value in node.results:
                outside = [user for user in value.users if part_of.get(user) is not part]
                exits = [user for user in outside if _is(user, _FIRST) and not graph.is_output(user.result)]
                part.exits.update(dict.fromkeys(exits))
                if len(exits) < len(outside):
                    part.others[value] = None
    return parts


def _is(node: Node, perm: tuple[int, ...]) -> bool:
    return node.op.name == "transpose" and tuple(node.attributes["perm"]) == perm and node.result.quant is None


def _can_turn(graph: Graph, node: Node) -> bool:
    """What works the same on every layout, its axes renamed."""
    if any(map(graph.is_output, node.results)) or any(value.shape is None for value in (*node.operands, *node.results)):
        return False
    data = [value for value in node.operands if not value.is_parameter]
    constants = [value for value in node.operands if value.is_parameter and value.type.size != 1]
    if any(value.type.rank != 4 for value in data) or any(
        value.array is None or value.quant is not None for value in constants
    ):
        return False
    if node.op.has(Trait.ELEMENTWISE):
        return not (constants and node.op.has(Trait.NONLINEARITY))  # a slope per channel, which axis 1 is
    if node.op.name in _SEVERAL_AXES:
        left = [_LAST[axis] for axis in range(4) if axis not in {each % 4 for each in node.attributes["axes"]}]
        return node.results[0].type.rank == 4 or (node.op.name != "slice" and left == sorted(left))
    return node.op.name in _ONE_AXIS or node.op.name == "pad"
