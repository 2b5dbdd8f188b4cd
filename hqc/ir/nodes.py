"""Values and nodes of a graph. Graphs make them (`hqc.ir.graph`); operands change through `Node.set_input`, which keeps uses right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from hqc.checked import explained, shown, takes
from hqc.errors import InputError, PassError, ShapeError
from hqc.ir.op import OpDef, Trait
from hqc.ir.types import Device, Location, Observation, QuantParams, Request, Shape, Sizes, Support, TensorType

if TYPE_CHECKING:
    from hqc.ir.graph import Graph


@explained
class Value:
    """A named tensor: graph input, parameter or node result. Created by `Graph` only."""

    __slots__ = ("_uses", "array", "name", "observation", "producer", "quant", "trains", "type")

    def __init__(self, name: str, type: TensorType, producer: Node | None, array: npt.NDArray[Any] | None) -> None:
        self.name = name
        self.type = type
        self.quant: QuantParams | None = None
        self.observation: Observation | None = None
        self.producer = producer
        self.array = array
        self.trains = False  # a parameter whose numbers training goes on to change; not part of the text form
        self._uses: dict[tuple[int, int], tuple[Node, int]] = {}

    @property
    def is_parameter(self) -> bool:
        return self.array is not None

    @property
    def off_grid(self) -> bool:
        """True for a result that keeps its operand's scale, falls between its grid points and is rounded down onto them."""
        return self.observation is not None and self.observation.policy == "operand"

    @property
    def is_input(self) -> bool:
        return self.producer is None and self.array is None

    @property
    def uses(self) -> list[tuple[Node, int]]:
        """`(node, operand index)` pairs, in program order."""
        if len(self._uses) < 2:
            return list(self._uses.values())
        return sorted(self._uses.values(), key=lambda use: (use[0]._order, use[1]))

    @property
    def users(self) -> list[Node]:
        """Using nodes in program order, each once."""
        if len(self._uses) < 2:
            return [node for node, _ in self._uses.values()]
        return list(dict.fromkeys(node for node, _ in self.uses))

    @property
    def has_uses(self) -> bool:
        return bool(self._uses)

    @property
    def shape(self) -> Shape | None:
        """All sizes, or None while any is unknown."""
        return self.type.shape

    @property
    def sizes(self) -> Sizes | None:
        """The sizes, None for those that are unknown; None while the rank is unknown."""
        return self.type.sizes

    def __reduce__(self) -> tuple[Any, ...]:
        """By its place in its graph, which comes along; see `hqc.ir.flat`."""
        from hqc.ir import flat

        if self.producer is not None:
            return flat.result_of, (self.producer, self.producer.results.index(self))
        if self._uses:
            return flat.operand_of, next(iter(self._uses.values()))
        return flat.alone, (self.name, self.type, self.array, self.quant, self.observation)

    def __repr__(self) -> str:
        return f"<Value {self.name}: {self.type}>"


@explained
class Node:
    """One operation. Operands change through `set_input`; everything else is plain data."""

    __slots__ = (
        "_inputs", "_order", "attributes", "device", "graph", "loc", "op", "origin", "request", "results", "subgraph",
        "support",
    )  # fmt: skip

    def __init__(self, graph: Graph, op: OpDef, attributes: dict[str, Any], loc: Location, origin: tuple[str, ...]) -> None:
        self.graph: Graph | None = graph
        self.op = op
        self.attributes = attributes
        self.loc = loc
        self.origin = origin
        self.device: Device | None = None
        self.subgraph: int | None = None
        self.support: Support | None = None
        self.request: Request | None = None
        self.results: list[Value] = []
        self._inputs: list[Value | None] = []
        self._order = 0

    @property
    def inputs(self) -> Sequence[Value | None]:
        """All operands by position; None where an optional one is absent."""
        return tuple(self._inputs)

    @property
    def operands(self) -> list[Value]:
        """Operands that are present, parameters included."""
        return [value for value in self._inputs if value is not None]

    @property
    def data_operands(self) -> list[Value]:
        """Operands that are present and not parameters."""
        return [value for value in self._inputs if value is not None and not value.is_parameter]

    @property
    def producers(self) -> list[Node]:
        """Nodes that produce the operands, each once, in operand order."""
        sources = (value.producer for value in self._inputs if value is not None)
        return [node for node in dict.fromkeys(sources) if node is not None]

    @property
    def users(self) -> list[Node]:
        """Nodes that use any result, each once, in program order."""
        if len(self.results) == 1:
            return self.results[0].users
        return sorted({node for value in self.results for node in value.users}, key=lambda node: node._order)

    @property
    def result(self) -> Value:
        """The only result; raises when there are several."""
        (value,) = self.results
        return value

    @property
    def name(self) -> str:
        """Name of the first result: unique in the graph."""
        return self.results[0].name

    @property
    def label(self) -> str:
        """Name and, where known, place in the user's program: `conv1 [net.conv1:conv2d#0 (net.py:12)]`."""
        name = self.results[0].name if self.results else self.op.name
        return f"{name} [{self.loc}]" if str(self.loc) else name

    @property
    def order(self) -> int:
        """A number that grows along program order; it changes when nodes are inserted."""
        return self._order

    @property
    def keeps_scale(self) -> bool:
        """True when the result takes the first operand's quantization on every march.

        A pad with another value than 0 does not: the value may lie outside the operand's range, which nobody knows yet.
        """
        if not self.op.has(Trait.PASS_THROUGH):
            return False
        fills = self.op.has(Trait.FILLS) and self.attributes["mode"] == "constant" and any(self.attributes["pads"])
        return not fills or self.attributes["value"] == 0.0

    def operand(self, name: str) -> Value | None:
        """The operand declared as `name`, or None."""
        index = self.op.operand_index(name)
        return self._inputs[index] if index < len(self._inputs) else None

    def set_input(self, index: int, value: Value | None) -> None:
        """Make `value` the operand at `index`, extending with absent operands when needed."""
        require_values((value,))
        if not takes(int, index) or not 0 <= index <= max(len(self._inputs), len(self.op.operands)):
            raise InputError(f"{self.op.name} has no operand at the index {shown(index)}")
        while len(self._inputs) <= index:
            self._inputs.append(None)
        old = self._inputs[index]
        if old is value and value is not None:
            return
        if old is not None:
            del old._uses[(id(self), index)]
        self._inputs[index] = value
        if value is not None:
            value._uses[(id(self), index)] = (self, index)
        while self._inputs and self._inputs[-1] is None:
            self._inputs.pop()

    def set_inputs(self, values: Sequence[Value | None]) -> None:
        """Make `values` the operands, all of them; absent ones at the end are left out."""
        values = list(values)
        require_values(values)
        for index, value in enumerate(self._inputs):
            if value is not None:
                del value._uses[(id(self), index)]
        self._inputs = values
        while self._inputs and self._inputs[-1] is None:
            self._inputs.pop()
        for index, value in enumerate(self._inputs):
            if value is not None:
                value._uses[(id(self), index)] = (self, index)

    @property
    def operand_types(self) -> list[TensorType | None]:
        """Types by position; None where an optional operand is absent."""
        return [None if value is None else value.type for value in self._inputs]

    @property
    def operand_arrays(self) -> list[npt.NDArray[Any] | None]:
        """Arrays of the operands that are constants, by position."""
        return [None if value is None else value.array for value in self._inputs]

    def infer_types(self) -> list[TensorType]:
        """Result types from operand types; `ShapeError` names this node and its source line."""
        try:
            return self.op.infer(self.operand_types, self.attributes, self.operand_arrays)
        except ShapeError as error:
            raise ShapeError(f"{self.label}: {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        """By its name in its graph, which comes along."""
        from hqc.ir import flat

        if self.graph is None:
            raise PassError(f"{self.op.name} was erased from its graph and cannot be copied or saved")
        return flat.node_of, (self.graph, self.name)

    def __repr__(self) -> str:
        return f"<Node {self.results[0].name if self.results else '?'} = {self.op.name}>"


def require_values(values: Iterable[Any]) -> None:
    """Before anything of a graph changes: what is half changed is worse than an error."""
    for value in values:
        if value is not None and not isinstance(value, Value):
            raise InputError(f"an operand is a Value of a graph, or None where it is absent, got {shown(value)}")
