"""Changes of a model or its settings, each of which can be made on a float graph and its options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hqc.checked import explained
from hqc.ir import Device, DType, Graph, Node
from hqc.passes.overrides import KINDS, Kind, Override
from hqc.workflow.options import CompileOptions


def names_in(node: Node) -> tuple[str, ...]:
    """The traced operations that a node stands for; its own name where it comes from none."""
    return node.origin or (node.name,)


@explained
@dataclass(frozen=True)
class Change(ABC):
    """One edit. `nodes`: traced names of the operations that it is about."""

    nodes: tuple[str, ...]

    def options(self, options: CompileOptions) -> CompileOptions:
        """The settings with the change made."""
        return options

    def edited(self, graph: Graph) -> Graph:
        """A float graph with the change made, in place."""
        return graph

    @property
    @abstractmethod
    def text(self) -> str:
        """What to do, in one sentence without its subject."""


@explained
@dataclass(frozen=True)
class Drop(Change):
    """Take an entry out of the `hybrid_dict`."""

    entry: Override

    def options(self, options: CompileOptions) -> CompileOptions:
        return replace(options, overrides=tuple(each for each in options.overrides if each != self.entry))

    @property
    def text(self) -> str:
        return f"drop the entry {self.entry.source}"


@explained
@dataclass(frozen=True)
class DropThresholds(Change):
    """Keep small blocks on the BPU."""

    def options(self, options: CompileOptions) -> CompileOptions:
        return replace(options, min_macs=0.0, min_nodes=0)

    @property
    def text(self) -> str:
        return "do without min_macs and min_nodes"


@explained
@dataclass(frozen=True)
class Place(Change):
    """Ask for a device in the `hybrid_dict`. `kind`: how operations are named there; `dtype`: of activations, with the BPU."""

    device: Device
    kind: Kind = "node_name"
    values: tuple[str, ...] = ()
    dtype: DType | None = None

    def options(self, options: CompileOptions) -> CompileOptions:
        return replace(options, overrides=tuple(dict.fromkeys((*options.overrides, *self.entries))))

    @property
    def entries(self) -> tuple[Override, ...]:
        return tuple(Override(self.device, self.kind, value, self.dtype) for value in self.values or self.nodes)

    @property
    def text(self) -> str:
        asked = hybrid_dict_of(self.entries)
        where = "place on the CPU" if self.device is Device.CPU else "ask for the BPU"
        return f"{where} with hybrid_dict={asked}"


@explained
@dataclass(frozen=True)
class Replace(Change):
    """Another operation of one input, or the same one with other settings, in the model. `spelled`: as users write it; `window`: height
    and width of its weight, where that changes."""

    op: str
    attributes: tuple[tuple[str, Any], ...]
    spelled: str
    march: str
    window: tuple[int, ...] = ()

    def edited(self, graph: Graph) -> Graph:
        wanted = set(self.nodes)
        for node in list(graph.nodes):
            if wanted.intersection(names_in(node)):
                replace_node(graph, node, self.op, dict(self.attributes), self.window)
        return graph

    @property
    def text(self) -> str:
        return f"{self.spelled} runs on the BPU of {self.march}; train with it"


def replace_node(graph: Graph, node: Node, op: str, attributes: Mapping[str, Any], window: tuple[int, ...] = ()) -> Node:
    """Put `op`, on the node's operands if it is the same op, else on the first, in the place of a node of one result."""
    inputs = list(node.inputs) if node.op.name == op else list(node.inputs[:1])
    if window:
        index = node.op.operand_index("weight")
        weight = inputs[index]
        assert weight is not None and weight.array is not None
        cut = tuple(
            slice((size - new) // 2, (size - new) // 2 + new) for size, new in zip(weight.array.shape[2:], window, strict=True)
        )
        inputs[index] = graph.add_parameter(graph.unique_name(f"{weight.name}_cut"), weight.array[:, :, cut[0], cut[1]])
    name, old = node.result.name, node.result
    graph.rename(old, graph.unique_name(f"{name}_before"))
    new = graph.add_node(op, inputs, attributes, name=name, loc=node.loc, origin=node.origin, before=node)
    graph.replace_uses(old, new.result)
    graph.erase(node)
    return new


def hybrid_dict_of(overrides: tuple[Override, ...]) -> dict[str, dict[str, list[Any]]]:
    """The `hybrid_dict` with these entries, in their order."""
    found: dict[str, dict[str, list[Any]]] = {}
    for device in (Device.CPU, Device.BPU):
        for kind in KINDS:
            entries = [each for each in overrides if each.device is device and each.kind == kind]
            if entries:
                values = [each.value if each.dtype is None else (each.value, each.dtype.name.lower()) for each in entries]
                found.setdefault(device.value, {})[kind] = values
    return found
