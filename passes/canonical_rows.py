"""The rewrite of `canonicalize` for linear layers that are given rows: `[N, C]` between changes of shape.

As in `canonical_rules`, one function, whose docstring is the rule as documentation shows it. Tools that simplify files (onnxsim, onnxslim)
write every linear layer of tokens in this way, as a Gemm takes matrices alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hqc.ir import Graph, Node, Trait, Value
from hqc.ir.ops import conv, layout
from hqc.passes.canonical_rules import own_scale, rule
from hqc.passes.rewrite import drop_unused, only_user

Sizes = tuple[int, ...]


@rule(conv.linear)
def linear_of_rows(graph: Graph, node: Node) -> bool:
    """Linear layers, and what computes element by element between them, on rows `[N, C]` that are reshaped before and behind, work on
    `[..., C]` where one of those shapes has these axes."""
    x = node.inputs[0]
    if x is None or x.type.rank != 2 or x.producer is None or x.producer.op is not layout.reshape:
        return False
    region = _Region(graph)
    if not region.grow(node):
        return False
    lead = region.lead()
    if lead is None:
        return False
    region.move(lead)
    return True


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
                if maker.op is layout.reshape:
                    if maker.inputs[0] is None or maker.inputs[0].shape is None or own_scale(maker):
                        return False
                    self.entries[maker] = None
                else:
                    waiting.append(maker)
            for user in node.result.users:
                if user.op is not layout.reshape:
                    waiting.append(user)
                elif 0 in user.attributes["shape"] or _last(self.graph, user).shape in (None, node.result.shape):
                    return False  # it copies a size of the rows, or what is left are rows
                else:
                    self.exits[user] = None
        return bool(self.exits)

    def _computes_rows(self, node: Node) -> bool:
        layer = node.op is conv.linear and node.operand("residual") is None
        if (
            not (layer or node.op.has(Trait.ELEMENTWISE))
            or len(node.results) != 1
            or own_scale(node)
            or node.support is not None
        ):
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
                    layout.reshape, [source], {"shape": wanted}, name=name, loc=entry.loc, origin=entry.origin, before=entry
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
                source = entry.operands[0]
                graph.erase(entry)
                drop_unused(graph, source)


def _last(graph: Graph, node: Node) -> Value:
    """What a reshape is in the end, where nothing but reshapes reads it."""
    user = only_user(graph, node.result)
    while user is not None and user.op is layout.reshape:
        node, user = user, only_user(graph, user.result)
    return node.result


def _leading(sizes: Sizes, rows: Sizes) -> Sizes | None:
    """As many axes of `sizes` as make up the rows, at least two; what is left are the channels, in one axis or in several."""
    ends = (end for end in range(len(sizes) - 1, 1, -1) if math.prod(sizes[:end]) == rows[0])
    return next((sizes[:end] for end in ends if math.prod(sizes[end:]) == rows[1]), None)
