"""What lowering gives: the graph, what `forward` returns, and what each FX node became."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from hqc.checked import explained
from hqc.errors import LoweringError
from hqc.frontend.fx.opaque import OpaqueCall
from hqc.ir import Graph, Value
from hqc.ir.types import Shape
from hqc.structures import map_structure, named_leaves


@explained
@dataclass
class OutputRef:
    """Place of a tensor in `LoweredModel.outputs`: its index in `graph.outputs`."""

    index: int


@dataclass(frozen=True)
class ValueName:
    """Place of a tensor in `LoweredModel.values`: the IR value that the lowering gave it, and its shape there."""

    name: str
    shape: Shape | None = None


@explained
@dataclass
class LoweredModel:
    """A lowered model.

    `opaque`: node id -> callable on NumPy arrays, for the ops that only torch can run. `outputs`: what `forward` returns,
    with an `OutputRef` for each tensor. `warnings`: sentences for the user.

    What the FX nodes became, by name: `values`: their result, with a `ValueName` for each tensor that depends on the inputs and
    None for everything else. `writes`: node that writes in place -> the nodes that have its value from then on.
    `constants`: parameter of the graph -> FX node that holds it. `tensors`: the tensors that nodes hold which depend on no input.
    `numbers`: the sizes and other whole numbers that nodes hold. `updates`: nodes that only serve to change buffers; they became nothing.
    """

    graph: Graph
    opaque: dict[str, OpaqueCall] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    outputs: Any = None
    values: dict[str, Any] = field(default_factory=dict)
    writes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    constants: dict[str, str] = field(default_factory=dict)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    updates: frozenset[str] = frozenset()

    def set_outputs(self, structure: Any, names: Iterable[str], value_of: Callable[[Any], Value]) -> None:
        """Make the tensors of `structure`, which `forward` returns, the graph's outputs.

        `names`: those that the graph's author gave, in order; empty ones are the values'. Keys of a dict are names before these.
        `value_of`: the IR value of a tensor, which may be a constant. Raises `LoweringError` where no tensor is among them.
        """
        structure = map_structure(structure, lambda item: item)
        by_key = isinstance(structure, dict)
        given, values, taken = iter(names), list[Value](), list[str]()
        entries = iter(list(named_leaves(structure, "")))

        def place(item: Any) -> Any:
            key, _ = next(entries)
            if not isinstance(item, (Value, torch.Tensor)):
                return item
            value = value_of(item)
            base = (key.removeprefix("_") if by_key else next(given, "")) or value.name
            values.append(value)
            taken.append(_unique(base, taken))
            return OutputRef(len(values) - 1)

        self.outputs = map_structure(structure, place)
        if not values:
            raise LoweringError(f"{self.graph.name} returns no tensor that depends on its inputs")
        self.graph.set_outputs(values, taken)


def _unique(base: str, taken: list[str]) -> str:
    name, count = base, 0
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    return name
