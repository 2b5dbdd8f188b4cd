"""Which values of the planned graph the nodes of the traced model hold, and which boundaries stand before their operands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx

from hqc.frontend.fx.lowered import LoweredModel, ValueName
from hqc.ir import Graph, Location, Node, Trait, Value
from hqc.ir.types import Shape
from hqc.structures import leaves, map_structure, reached


def is_inserted_boundary(node: Node | None) -> bool:
    """A quantize or dequantize that the passes put in (a user's stub comes from a node of the model)."""
    return node is not None and node.op.has(Trait.BOUNDARY) and not node.origin


class PlannedValues:
    """The traced graph seen with the plan. `held` changes along the walk, as in-place writes give names new values."""

    def __init__(self, traced: fx.Graph, lowered: LoweredModel) -> None:
        self.graph: Graph = lowered.graph
        self._lowered = lowered
        self._names = dict(lowered.values)
        self.fx_nodes = {node.name: node for node in traced.nodes}
        self._nodes_of: dict[str, list[Node]] = {}
        for node in self.graph.nodes:
            if not is_inserted_boundary(node):
                for name in dict.fromkeys(node.origin):
                    self._nodes_of.setdefault(name, []).append(node)
        self._carriers: dict[str, str] = {}
        for name, structure in lowered.values.items():
            if isinstance(structure, ValueName):
                value = self.graph.current(structure.name)
                if value is not None:
                    self._carriers.setdefault(value.name, name)
        self._demands: dict[tuple[fx.Node, str], bool] = {}

    # --- nodes -----------------------------------------------------------------------------------------------------------

    def nodes_of(self, fx_node: fx.Node) -> list[Node]:
        """The planned nodes that `fx_node` became, in program order; empty for what the plan dropped, for constants and sizes."""
        return self._nodes_of.get(fx_node.name, [])

    def members(self, node: Node) -> list[fx.Node]:
        """The nodes of the traced model that `node` stands for, in program order."""
        return [self.fx_nodes[name] for name in dict.fromkeys(node.origin) if name in self.fx_nodes]

    def origin(self, node: Node) -> dict[str, Location]:
        """The operations of the model that `node` stands for, with their places."""
        locations = self.graph.locations
        return {name: locations.get(name, node.loc) for name in node.origin}

    # --- values ----------------------------------------------------------------------------------------------------------

    def held(self, fx_node: fx.Node) -> Any:
        """What `fx_node` holds at this point of the walk: a value, or a structure with values; None in it for everything else
        and for values that fusion took in."""
        return map_structure(self._names.get(fx_node.name), self._current)

    def value(self, fx_node: fx.Node) -> Value | None:
        """The value that `fx_node` holds, if it holds one."""
        held = self.held(fx_node)
        return held if isinstance(held, Value) else None

    def ever_holds(self, fx_node: fx.Node, value: Value) -> bool:
        """True where `fx_node` holds `value` now, or once a call has written into it in place."""
        writers = (self.fx_nodes[writer] for writer, names in self._lowered.writes.items() if fx_node.name in names)
        return any(self.value(holder) is value for holder in (fx_node, *writers))

    def shape(self, fx_node: fx.Node) -> Shape | None:
        """The shape of the tensor that `fx_node` holds in the model, where it holds one: rewrites may have changed that of its value."""
        named = self._names.get(fx_node.name)
        return named.shape if isinstance(named, ValueName) else None

    def holds_tensor(self, fx_node: fx.Node) -> bool:
        """True for a result that depends on the inputs and is a tensor, or has one in it (no size, no constant)."""
        return any(isinstance(item, ValueName) for item in leaves(self._names.get(fx_node.name)))

    def is_carrier(self, fx_node: fx.Node, value: Value) -> bool:
        """True for the first node of the model that holds `value`."""
        return self._carriers.get(value.name) == fx_node.name

    def has_carrier(self, value: Value) -> bool:
        return value.name in self._carriers

    def passes_on(self, fx_node: fx.Node) -> bool:
        """True for a tensor operation that the plan dropped, because it does nothing (a reshape to the shape that is there)."""
        return fx_node.op not in ("placeholder", "get_attr") and self.holds_tensor(fx_node) and not self.nodes_of(fx_node)

    def repeats(self, fx_node: fx.Node) -> Value | None:
        """The value of an earlier node that `fx_node` computes again, where the plan computes it once."""
        value = self.value(fx_node)
        maker = None if value is None else value.producer
        if (
            value is None
            or maker is None
            or self.is_carrier(fx_node, value)
            or maker.origin[-1:] != (self._carriers[value.name],)
        ):
            return None
        return value if fx_node.name in maker.origin[:-1] else None

    def writes(self, fx_node: fx.Node) -> bool:
        """True for a call that writes into its first operand."""
        return fx_node.name in self._lowered.writes

    def write(self, fx_node: fx.Node) -> list[fx.Node]:
        """The nodes that have the value of `fx_node` from now on, because it writes in place."""
        names = self._lowered.writes.get(fx_node.name, ())
        for name in names:
            self._names[name] = self._names[fx_node.name]
        return [self.fx_nodes[name] for name in names]

    def holder(self, parameter: str) -> fx.Node | None:
        """The node of the model that holds the tensor of a parameter (a get_attr, or what is computed from one)."""
        return self.fx_nodes.get(self._lowered.constants.get(parameter, ""))

    def _current(self, item: Any) -> Value | None:
        return self.graph.current(item.name) if isinstance(item, ValueName) else None

    # --- boundaries ------------------------------------------------------------------------------------------------------

    def boundaries(self, fx_node: fx.Node) -> dict[str, list[Node]]:
        """Boundaries between a value (by name) and the operations that `fx_node` became, in order of their operands."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes_of(fx_node):
            for boundary in _boundaries_before(node):
                found.setdefault(boundary.operands[0].name, []).append(boundary)
        return found

    def reads_quantized(self, fx_node: fx.Node, value: Value) -> bool:
        """True when `fx_node` reads `value` behind its fake quant: for what the plan dropped, when a reader behind it does."""
        key = (fx_node, value.name)
        if key not in self._demands:
            readers = reached(fx_node, lambda reader: reader.users if self.passes_on(reader) else ())
            self._demands[key] = any(self._quantizes(reader, value) for reader in readers if not self.passes_on(reader))
        return self._demands[key]

    def _quantizes(self, reader: fx.Node, value: Value) -> bool:
        return any(boundary.op.name == "quantize" for boundary in self.boundaries(reader).get(value.name, []))


def _boundaries_before(node: Node) -> Iterator[Node]:
    for operand in node.operands:
        producer = operand.producer
        if producer is not None and is_inserted_boundary(producer):
            yield producer


def value_paths(held: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Value]]:
    """The values of a structure, each with the keys that lead to it."""
    if isinstance(held, Value):
        yield path, held
    elif isinstance(held, (tuple, list)):
        for index, item in enumerate(held):
            yield from value_paths(item, (*path, index))
    elif isinstance(held, dict):
        for key, item in held.items():
            yield from value_paths(item, (*path, key))
