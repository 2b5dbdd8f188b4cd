"""The pass `lower-to-integer`: a scaled graph becomes the integer graph that the simulator runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hqc.checked import explained
from hqc.errors import CompileError
from hqc.ir import Graph, Node, Value
from hqc.passes.base import Pass, PassContext, PassResult
from hqc.passes.lower_to_integer.context import Lowering
from hqc.passes.lower_to_integer.registry import IntegerLowering, accepts, lowering_of, lowers
from hqc.passes.node_facts import is_quantize, on_bpu
from hqc.passes.registry import register_pass

__all__ = ["IntegerLowering", "LowerToInteger", "accepts", "lowering_of", "lowers"]


@explained
@register_pass
@dataclass(frozen=True)
class LowerToInteger(Pass):
    """Turn every BPU node into integer ops: weights, biases, multipliers, shifts and tables as in docs/arithmetic.md.

    Values keep their names and their scales and get integer types; CPU nodes stay as they are.
    """

    name: ClassVar[str] = "lower-to-integer"
    requires: ClassVar[str] = "scaled"
    establishes: ClassVar[str] = "integer"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        if graph.stage == "integer":
            return PassResult(False)
        low = Lowering(graph, context.march)
        floats = [value for value in graph.parameters.values() if value.type.dtype.is_float]
        for node in graph.nodes:
            low.start(node)
            if is_quantize(node):
                _quantize(node, low)
            elif on_bpu(node):
                _lower(node, low)
        _drop_unused(graph, floats)
        graph.stage = "integer"
        return PassResult(True, tuple(self.remark(message, node) for node, message in low.messages))


def _lower(node: Node, low: Lowering) -> None:
    entry = lowering_of(node.op)
    if entry is None:
        raise CompileError(
            f"{node.label}: {node.op.name} has no integer arithmetic, so the BPU cannot run it; place it on the CPU "
            "(hybrid_dict), or register a lowering with hqc.passes.lower_to_integer.lowers"
        )
    entry.lower(node, low)


def _quantize(node: Node, low: Lowering) -> None:
    """From here on a quantize stores integers."""
    quant = low.result_quant
    attributes = {**node.attributes, "dtype": quant.dtype, "rounding": quant.rounding, "integer": True}
    low.become("quantize", node.inputs, attributes)


def _drop_unused(graph: Graph, parameters: list[Value]) -> None:
    for value in parameters:
        if not value.has_uses and not graph.is_output(value):
            graph.erase_parameter(value)
