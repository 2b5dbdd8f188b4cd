"""Linear layers that a file gives rows: `[N, C]` between changes of shape.

Tools that simplify files (onnxsim, onnxslim) write every linear layer of tokens in this way, as a Gemm takes matrices alone. The layers,
and what computes element by element between them, work on `[..., C]` again, where what is reshaped before or behind them has these axes: a
sum behind a layer is added in it then, and no change of shape stands between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hqc.ir import Graph, Node, Trait, Value, get_op

_LINEAR, _RESHAPE = get_op("linear"), get_op("reshape")
Sizes = tuple[int, ...]


def read_rows(graph: Graph) -> None:
    """Let the linear layers of `graph` work on tokens, in place."""
    for node in list(graph.nodes):
        if node.graph is not graph or node.op is not _LINEAR:
            continue
        x = node.operands[0]
        if x.type.rank != 2 or x.producer is None or x.producer.op is not _RESHAPE:
            continue
        region = _Region(graph)
        lead = region.lead() if region.grow(node) else None
        if lead is not None:
            region.move(lead)


@dataclass
class _Region:
    """The nodes that compute rows from rows, the reshapes that they read (`entries`) and those that read them (`exits`)."""

    graph: Graph
    nodes: dict[Node, None] = field(default_factory=dict)
    entries: dict[Node, None] = field(default_factory=dict)
    exits: dict[Node, None] = field(default_factory=dict)

    def grow(self, start: Node) -> bool:
        """Collect what belongs together; False where something reads or makes rows that is neither."""
        waiting = [start]
        while waiting:
            node = waiting.pop()
            if node in self.nodes:
                continue
            if not self._computes_rows(node):
                return False
            self.nodes[node] = None
            for value in node.inputs:
                if value is None or value.is_parameter:
                    continue
                maker = value.producer
                if maker is None or value.type.rank != 2:
                    return False
                if maker.op is _RESHAPE:
                    if maker.inputs[0] is None or maker.inputs[0].shape is None or not _keeps_scale(maker, maker.operands[0]):
                        return False
                    self.entries[maker] = None
                else:
                    waiting.append(maker)
            for user in node.result.users:
                if user.op is not _RESHAPE:
                    waiting.append(user)
                elif (
                    not _keeps_scale(user, node.result)
                    or 0 in user.attributes["shape"]
                    or _last(self.graph, user).shape in (None, node.result.shape)
                ):
                    return False  # it copies a size of the rows, or what is left are rows
                else:
                    self.exits[user] = None
        return bool(self.exits)

    def _computes_rows(self, node: Node) -> bool:
        layer = node.op is _LINEAR and node.operand("residual") is None
        if not (layer or node.op.has(Trait.ELEMENTWISE)) or len(node.results) != 1:
            return False
        shape = node.result.shape
        if shape is None or len(shape) != 2 or self.graph.is_output(node.result):
            return False
        constants = () if layer else [value for value in node.operands if value.is_parameter and value.type.size != 1]
        if constants and node.op.has(Trait.NONLINEARITY):
            return False  # a slope per channel, which axis 1 is
        return all(value.shape in ((shape[1],), (1, shape[1])) for value in constants)

    def lead(self) -> Sizes | None:
        """The axes before the channels, as what is made of the rows or what they are made of has them; the fewest where they differ."""
        pairs = [(node.result.shape, node.operands[0].shape) for node in self.exits]
        pairs += [(node.operands[0].shape, node.result.shape) for node in self.entries]
        found = (_leading(sizes, rows) for sizes, rows in pairs if sizes is not None and rows is not None)
        return min((lead for lead in found if lead is not None), key=len, default=None)

    def move(self, lead: Sizes) -> None:
        """Compute on `[*lead, C]` what was computed on rows."""
        graph = self.graph
        for entry in self.entries:
            source, rows = entry.operands[0], entry.result
            assert rows.shape is not None
            wanted = (*lead, rows.shape[-1])
            if source.shape != wanted:
                name = graph.unique_name(f"{entry.name}_tokens")
                source = graph.add_node(
                    _RESHAPE, [source], {"shape": wanted}, name=name, loc=entry.loc, origin=entry.origin, before=entry
                ).result
            for user, index in list(rows._uses.values()):
                if user in self.nodes:
                    user.set_input(index, source)
        for node in sorted(self.nodes, key=lambda node: node._order):
            (type,) = node.infer_types()
            node.result.type = type
        for leaving in self.exits:
            if leaving.result.shape == leaving.operands[0].shape and not graph.is_output(leaving.result):
                graph.replace_uses(leaving.result, leaving.operands[0])
                graph.erase(leaving)
        for entry in self.entries:
            if not any(value.users or graph.is_output(value) for value in entry.results):
                graph.erase(entry)


def _keeps_scale(node: Node, source: Value) -> bool:
    return node.result.quant is None or node.result.quant.same_grid(source.quant)


def _only_user(graph: Graph, value: Value) -> Node | None:
    return value.users[0] if len(value.users) == 1 and not graph.is_output(value) else None


def _last(graph: Graph, node: Node) -> Value:
    """What a reshape is in the end, where nothing but reshapes reads it."""
    user = _only_user(graph, node.result)
    while user is not None and user.op is _RESHAPE:
        node, user = user, _only_user(graph, user.result)
    return node.result


def _leading(sizes: Sizes, rows: Sizes) -> Sizes | None:
    """As many axes of `sizes` as make up the rows, at least two; what is left are the channels, in one axis or in several."""
    ends = (end for end in range(len(sizes) - 1, 1, -1) if math.prod(sizes[:end]) == rows[0])
    return next((sizes[:end] for end in ends if math.prod(sizes[end:]) == rows[1]), None)
