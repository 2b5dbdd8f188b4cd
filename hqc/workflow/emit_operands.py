"""Operands of one call in the versions that the plan says it reads."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from torch import fx

from hqc.ir import Node, Value
from hqc.structures import leaves
from hqc.workflow.emit_values import is_inserted_boundary

if TYPE_CHECKING:
    from hqc.workflow.emit import _Emitter


class Operands:
    """Maps nodes of the traced model to nodes of the new graph, as `reader` reads them.

    A value has up to three versions: as computed (on its grid, where the BPU made it), fake-quantized for readers on the BPU, and
    dequantized for one reader on the CPU. Which one is read is what stands before the operand in the plan.
    """

    def __init__(self, emitter: _Emitter, reader: fx.Node) -> None:
        self._emitter = emitter
        self._reader = reader
        self._boundaries = emitter.values.boundaries(reader)
        self._passes_on = emitter.values.passes_on(reader)

    def map(self, structure: Any) -> Any:
        """A structure of arguments with every node mapped."""
        return fx.node.map_arg(structure, self)

    def __call__(self, operand: fx.Node) -> Any:
        emitter = self._emitter
        held = emitter.values.held(operand)
        if isinstance(held, Value):
            return self._version(held, operand)
        if any(isinstance(item, Value) and self._has_versions(item) for item in leaves(held)):
            return self._elements(held, emitter.env[operand])
        return emitter.env[operand]

    def of_value(self, value: Value) -> fx.Node:
        """The version of `value`, the operand of a planned node."""
        producer = value.producer
        if producer is None or not is_inserted_boundary(producer):
            return self._emitter.now[value.name]
        source = producer.operands[0]
        if producer.op.name == "quantize":
            return self._emitter.quantized[source.name]
        return self._dequantized(producer, self._emitter.now[source.name])

    def _version(self, value: Value, operand: fx.Node) -> fx.Node:
        emitter = self._emitter
        plain = emitter.env[operand]
        if operand in emitter.took_quantized:
            return plain
        if self._passes_on:
            if value.name not in emitter.quantized or not emitter.values.reads_quantized(self._reader, value):
                return plain
            emitter.took_quantized.add(self._reader)
            return emitter.quantized[value.name]
        waiting = self._boundaries.get(value.name)
        if not waiting:
            return self._bounded(value, plain)
        boundary = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if boundary.op.name == "quantize":
            return emitter.quantized[value.name]
        return self._dequantized(boundary, plain)

    def _bounded(self, value: Value, plain: fx.Node) -> fx.Node:
        """`plain`, behind what bounds how steep the reader is where it standardizes what the CPU has made of values on grids."""
        emitter, nodes = self._emitter, self._emitter.values.nodes_of(self._reader)
        module = emitter.observers.steep_operand(nodes[0], value) if emitter.trains and len(nodes) == 1 else None
        if module is None:
            return plain
        return emitter.insert(f"{self._reader.name}_steep_operand", module, (plain,), self._reader)

    def _dequantized(self, boundary: Node, plain: fx.Node) -> fx.Node:
        emitter = self._emitter
        if boundary.name not in emitter.dequantized:
            consumer = boundary.users[0]
            name = f"{consumer.origin[-1] if consumer.origin else consumer.name}_input_dequant"
            path = emitter.tree.insert(emitter.position[self._reader], 1, name, emitter.observers.dequant_stub(boundary))
            emitter.dequantized[boundary.name] = emitter.call(path, (plain,), boundary.name)
        return emitter.dequantized[boundary.name]

    def _has_versions(self, value: Value) -> bool:
        return value.name in self._boundaries or value.name in self._emitter.observed

    def _elements(self, held: Any, whole: fx.Node) -> Any:
        """A structure taken apart, because its tensors are read in other versions than the operation returned them."""
        if isinstance(held, (tuple, list)):
            items = [self._elements(item, self._element(whole, index)) for index, item in enumerate(held)]
            return items if isinstance(held, list) else tuple(items)
        if isinstance(held, dict):
            return {key: self._elements(item, self._element(whole, key)) for key, item in held.items()}
        if not isinstance(held, Value):
            return whole
        boundary = self._boundaries.get(held.name)
        return self.of_value(boundary[0].result) if boundary else self._emitter.now.get(held.name, whole)

    def _element(self, whole: fx.Node, key: Any) -> fx.Node:
        name = self._emitter.free_name(f"{whole.name}_{key}")
        return self._emitter.graph.create_node("call_function", operator.getitem, (whole, key), {}, name)
