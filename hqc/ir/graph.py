"""Graphs of nodes over named values, with a mutation API that keeps uses right.

A graph is a list of nodes in program order over named SSA values. A value is a graph input, a parameter (constant array) or
a result of one node. Iterating over `graph.nodes` while inserting or erasing is safe: iteration walks a snapshot and skips
nodes that were erased meanwhile.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hqc import arithmetic
from hqc.checked import explained, whole_number
from hqc.errors import InputError, PassError, ShapeError
from hqc.ir.nodes import Node, Value
from hqc.ir.op import OpDef, Trait, get_op
from hqc.ir.types import DType, Location, QuantParams, TensorType
from hqc.near_names import suggest

if TYPE_CHECKING:
    import networkx

STAGES = ("lowered", "supported", "partitioned", "bounded", "scaled", "integer")
_GAP = 1 << 20
_NOWHERE = Location()


@explained
class Graph:
    """A program: inputs, parameters, ordered nodes, outputs, the march it is for and the stage it has reached."""

    def __init__(self, name: str = "graph", march: str | None = None) -> None:
        self.name = name
        self.march = march
        self.stage = "lowered"
        self.properties: set[str] = set()
        self.changed: dict[str, tuple[str, str]] = {}  # parameters that a rewrite made: of which other one, by which op
        self.locations: dict[str, Location] = {}  # of origins that fusion joined; not part of the text form
        self.inputs: list[Value] = []
        self._outputs: list[Value] = []
        self.output_names: list[str] = []
        self._values: dict[str, Value] = {}
        self._parameters: dict[str, Value] = {}
        self._count = 0
        self._sorted: list[Node] = []  # program order; erased nodes stay until compaction
        self._erased = 0
        self._next_order = 0
        self._suffix: dict[str, int] = {}
        self._replaced: dict[str, Value] = {}

    # --- reading -------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> Iterator[Node]:
        """Nodes in program order; safe against insertion and erasure while iterating."""
        for node in tuple(self._in_order()):
            if node.graph is self:
                yield node

    def _in_order(self) -> list[Node]:
        if self._erased > len(self._sorted) // 2:
            self._sorted = [node for node in self._sorted if node.graph is self]
            self._erased = 0
        return self._sorted

    def _forget(self, node: Node) -> None:
        self._drop_uses(node)
        for value in node.results:
            self._release(value.name)
        self._count -= 1
        self._erased += 1
        node.graph = None

    def __len__(self) -> int:
        return self._count

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(self._outputs)

    @property
    def parameters(self) -> dict[str, Value]:
        """Parameter values by name, in order of creation."""
        return dict(self._parameters)

    @property
    def values(self) -> dict[str, Value]:
        """Every value by name (a copy)."""
        return dict(self._values)

    def value(self, name: str) -> Value:
        """The value called `name`; `InputError` when there is none."""
        found = self._values.get(name)
        if found is None:
            raise InputError(f"the graph {self.name} has no value called {name}{suggest(name, self._values)}")
        return found

    def is_output(self, value: Value) -> bool:
        for output in self._outputs:  # noqa: SIM110  (asked for every value, and there are few outputs)
            if value is output:
                return True
        return False

    def current(self, name: str) -> Value | None:
        """The value called `name`, or the one that took its place when rewrites replaced it; None when it is gone."""
        seen = set()
        while name not in self._values and name in self._replaced and name not in seen:
            seen.add(name)
            name = self._replaced[name].name
        return self._values.get(name)

    # --- building ------------------------------------------------------------------------------------------------

    def unique_name(self, base: str) -> str:
        """`base`, or the first of `base_1`, `base_2`, ... that is free."""
        if base not in self._values:
            return base
        count = self._suffix.get(base, 0)
        while True:
            count += 1
            name = f"{base}_{count}"
            if name not in self._values:
                self._suffix[base] = count
                return name

    def _release(self, name: str) -> None:
        """Make `name` free again, for `unique_name` too."""
        del self._values[name]
        self._parameters.pop(name, None)
        base, _, number = name.rpartition("_")
        if base in self._suffix and (counted := whole_number(number)) is not None:
            self._suffix[base] = min(self._suffix[base], counted - 1)

    def _new_value(self, name: str, type: TensorType, producer: Node | None, array: npt.NDArray[Any] | None) -> Value:
        if name in self._values:
            name = self.unique_name(name)
        value = self._values[name] = Value(name, type, producer, array)
        if array is not None:
            self._parameters[name] = value
        return value

    def add_input(self, name: str, type: TensorType) -> Value:
        value = self._new_value(name, type, None, None)
        self.inputs.append(value)
        return value

    def add_parameter(
        self, name: str, array: npt.NDArray[Any], quant: QuantParams | None = None, *, of: Iterable[Value] = ()
    ) -> Value:
        """A constant; the array is kept, not copied, and must not be written afterwards.

        `of`: the constants that it is computed from; it trains where one of them does.
        """
        value = self._new_value(name, TensorType(DType.from_numpy(array.dtype), array.shape), None, array)
        value.quant = quant
        value.trains = any(source.trains for source in of)
        return value

    def settle_parameters(self) -> None:
        """No parameter's numbers change any more: the model is not trained."""
        for value in self._parameters.values():
            value.trains = False

    def add_node(
        self,
        op: OpDef | str,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str | Sequence[str] | None = None,
        loc: Location | None = None,
        origin: Iterable[str] = (),
        before: Node | None = None,
        after: Node | None = None,
        types: Sequence[TensorType] | None = None,
    ) -> Node:
        """Append a node, or insert it `before` / `after` another; result types are inferred unless given.

        `name`: of the result, or a sequence of names, one per result (a single name is numbered for the others).
        """
        definition = get_op(op) if isinstance(op, str) else op
        definition.check_operand_count(len(inputs))
        node = Node(self, definition, definition.complete_attributes(attributes or {}), loc or _NOWHERE, tuple(origin))
        node.set_inputs(inputs)
        try:
            result_types = (
                list(types) if types is not None else node.op.infer(node.operand_types, node.attributes, node.operand_arrays)
            )
        except ShapeError as error:
            self._drop_uses(node)
            shown = name if isinstance(name, str) else (name[0] if name else definition.name)
            where = f" [{node.loc}]" if str(node.loc) else ""
            raise type(error)(f"{shown}{where}: {error}") from None
        names = self._result_names(name or definition.name, len(result_types))
        if len(names) != len(result_types):
            self._drop_uses(node)
            raise ShapeError(f"{names[0]}: {definition.name} makes {len(result_types)} results here, got {len(names)} names")
        node.results = [self._new_value(n, t, node, None) for n, t in zip(names, result_types, strict=True)]
        self._place(node, before, after)
        return node

    @staticmethod
    def _result_names(name: str | Sequence[str], count: int) -> list[str]:
        if isinstance(name, str):
            return [name] if count == 1 else [f"{name}_{index}" for index in range(count)]
        return list(name)

    def _place(self, node: Node, before: Node | None, after: Node | None) -> None:
        self._count += 1
        if before is None and after is None:
            self._next_order += _GAP
            node._order = self._next_order
            self._sorted.append(node)
            return
        ordered = self._in_order()
        anchor = before if before is not None else after
        assert anchor is not None
        position = self._position(ordered, anchor) + (0 if before is not None else 1)
        low = ordered[position - 1]._order if position > 0 else 0
        high = ordered[position]._order if position < len(ordered) else ordered[-1]._order + 2 * _GAP
        if high - low < 2:
            self._renumber(ordered)
            low = ordered[position - 1]._order if position > 0 else 0
            high = ordered[position]._order if position < len(ordered) else ordered[-1]._order + 2 * _GAP
        node._order = (low + high) // 2
        self._next_order = max(self._next_order, node._order)
        ordered.insert(position, node)

    @staticmethod
    def _position(ordered: list[Node], anchor: Node) -> int:
        low, high = 0, len(ordered)
        while low < high:
            middle = (low + high) // 2
            if ordered[middle]._order < anchor._order:
                low = middle + 1
            else:
                high = middle
        return low

    def _renumber(self, ordered: list[Node]) -> None:
        for index, node in enumerate(ordered, start=1):
            node._order = index * _GAP
        self._next_order = len(ordered) * _GAP

    def set_outputs(self, values: Sequence[Value], names: Sequence[str] | None = None) -> None:
        """Declare what the graph returns; `names` are the user's names. An output without a name, or with an empty one, has its value's."""
        self._outputs = list(values)
        own = [value.name for value in values]
        self.output_names = own if names is None else [name or "".join(own[i : i + 1]) for i, name in enumerate(names)]

    # --- changing ------------------------------------------------------------------------------------------------

    def replace_uses(self, old: Value, new: Value, *, only: Iterable[Node] | None = None, outputs: bool = True) -> None:
        """Make every use of `old` (or those by `only`) use `new`; graph outputs too unless `outputs` is False."""
        allowed = None if only is None else set(only)
        for node, index in list(old._uses.values()):
            if allowed is None or node in allowed:
                node.set_input(index, new)
        if outputs and allowed is None:
            self._replaced[old.name] = new
            self._outputs = [new if value is old else value for value in self._outputs]

    def replace_output(self, index: int, value: Value) -> None:
        """Return `value` as output number `index`; the output keeps its user-visible name."""
        self._outputs[index] = value

    def erase(self, node: Node) -> None:
        """Remove a node; `PassError` when a result is still used."""
        for value in node.results:
            if value.has_uses or self.is_output(value):
                users = ", ".join(user.name for user in value.users) or "the graph's outputs"
                raise PassError(f"cannot erase {node.name}: {value.name} is used by {users}")
        self._forget(node)

    def _drop_uses(self, node: Node) -> None:
        node.set_inputs(())

    def erase_parameter(self, value: Value) -> None:
        """Remove an unused parameter."""
        if value.has_uses or self.is_output(value):
            raise PassError(f"cannot erase parameter {value.name}: it is used")
        self._release(value.name)

    def rename(self, value: Value, name: str) -> None:
        """Give a value another (unique) name."""
        if name == value.name:
            return
        if name in self._values:
            raise PassError(f"cannot rename {value.name}: {name} is taken")
        if value.is_parameter:  # keep the order of creation, which printing follows
            self._parameters = {(name if v is value else key): v for key, v in self._parameters.items()}
        self._release(value.name)
        self._values[name] = value
        value.name = name

    def remove_dead_code(self) -> bool:
        """Erase nodes and parameters that no output needs; True when anything went."""
        changed = False
        outputs = set(map(id, self._outputs))
        for node in reversed(self._in_order()):
            if node.graph is not self:
                continue
            for value in node.results:
                if value._uses or id(value) in outputs:
                    break
            else:
                self._forget(node)
                changed = True
        for value in list(self._parameters.values()):
            if not value.has_uses and id(value) not in outputs:
                self._release(value.name)
                changed = True
        return changed

    def infer_types(self) -> None:
        """Recompute every result type from the inputs' types, in program order.

        Results of opaque nodes keep their types; results of boundary ops keep their dtype (float before the integer stage).
        """
        for node in self.nodes:
            if node.op.has(Trait.OPAQUE):
                continue
            keep_dtype = node.op.has(Trait.BOUNDARY)
            for value, type in zip(node.results, node.infer_types(), strict=True):
                value.type = value.type.with_shape(type.sizes) if keep_dtype else type

    # --- copies and views ----------------------------------------------------------------------------------------

    def clone(self) -> Graph:
        """A structural copy; parameter arrays are shared."""
        other = Graph(self.name, self.march)
        other.stage, other.properties, other.locations = self.stage, set(self.properties), dict(self.locations)
        other.changed = dict(self.changed)
        mapping: dict[int, Value] = {}
        for value in (*self.inputs, *self._parameters.values()):
            copied = other._new_value(value.name, value.type, None, value.array)
            copied.quant, copied.observation, copied.trains = value.quant, value.observation, value.trains
            mapping[id(value)] = copied
        other.inputs = [mapping[id(value)] for value in self.inputs]
        for node in self.nodes:
            twin = Node(other, node.op, copy.copy(node.attributes), node.loc, node.origin)
            twin.device, twin.subgraph, twin.support, twin.request = node.device, node.subgraph, node.support, node.request
            twin.set_inputs([None if operand is None else mapping[id(operand)] for operand in node._inputs])
            for value in node.results:
                copied = other._new_value(value.name, value.type, twin, None)
                copied.quant, copied.observation = value.quant, value.observation
                mapping[id(value)] = copied
                twin.results.append(copied)
            other._place(twin, None, None)
        other._replaced = {name: mapping[id(value)] for name, value in self._replaced.items() if id(value) in mapping}
        other.set_outputs([mapping[id(value)] for value in self._outputs], self.output_names)
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """As flat tuples: recursion would follow the network, thousands of layers deep."""
        from hqc.ir import flat

        return flat.rebuild, (flat.flatten(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        from hqc.ir import flat

        copied = memo[id(self)] = flat.copied(self)
        return copied

    def share_parameters(self, other: Graph) -> None:
        """Hold the arrays of `other` for parameters of one name and the same bits, instead of arrays of one's own."""
        for name, value in self._parameters.items():
            twin = other._parameters.get(name)
            if twin is not None and _same_bits(constant_array(value), constant_array(twin)):
                value.array = twin.array

    def with_batch(self, batch: int, opaque_types: Callable[[Node], Sequence[TensorType]] | None = None) -> Graph:
        """A copy whose graph inputs have `batch` as their first dimension, with shapes inferred again.

        `opaque_types`: result types of an opaque node for its new operands; without it their first dimension is the batch where
        it was the batch.

        `ShapeError` when an input has no batch dimension, inputs disagree, or an op mixes the samples of a batch.
        """
        from hqc.ir.batch import with_batch

        return with_batch(self, batch, opaque_types)

    def to_networkx(self) -> networkx.MultiDiGraph[Any]:
        """Nodes by name (attributes `op`, `device`, `subgraph`), one edge per operand (attribute `value`)."""
        from hqc.ir.analysis import to_networkx

        return to_networkx(self)

    def __str__(self) -> str:
        from hqc.ir.printer import print_graph

        return print_graph(self)

    def __eq__(self, other: object) -> bool:
        """Structural equality: same text but for locations, and same parameter bits."""
        from hqc.ir.analysis import structurally_equal

        return isinstance(other, Graph) and structurally_equal(self, other)

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<Graph {self.name}: {len(self)} nodes, stage {self.stage}, march {self.march}>"


def _same_bits(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return a is b or all(a[rows].tobytes() == b[rows].tobytes() for rows in arithmetic.row_blocks(a))


def constant_array(value: Value) -> np.ndarray[Any, Any]:
    """The array of a parameter value."""
    assert value.array is not None, value
    return value.array
