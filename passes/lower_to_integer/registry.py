"""The registry of integer lowerings: how each float op becomes integer ops, by op name or, for table ops, by trait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hqc.checked import explained
from hqc.ir import Node, OpDef, QuantParams, Reason, Trait
from hqc.march.spec import MarchSpec
from hqc.registry import Registry

if TYPE_CHECKING:
    from hqc.passes.lower_to_integer.context import Lowering

LowerFunction = Callable[[Node, "Lowering"], None]
AccumulatorScale = Callable[[Node, MarchSpec], float]
Accepts = Callable[[Node, MarchSpec], "Reason | None"]
ResultQuant = Callable[[Node, MarchSpec], "QuantParams | None"]


@explained
@dataclass(frozen=True)
class IntegerLowering:
    """How one op becomes integer ops.

    `lower` changes the node in place (`Lowering.become`), inserting helper nodes before it. `accumulator_scale`: scale of the
    number that is requantized to the result, for ops that requantize; where hardware only shifts right it is a lower bound of
    the result's scale. `result_quant`: quantization of a result that was not observed, for ops that can tell. `accepts`: why `lower`
    cannot express a node on a march, or None; what it does not refuse, `lower` can do.
    """

    lower: LowerFunction
    accumulator_scale: AccumulatorScale | None = None
    result_quant: ResultQuant | None = None
    accepts: Accepts | None = None


LOWERINGS: Registry[str | Trait, IntegerLowering] = Registry("integer lowering", families="hqc.passes.lower_to_integer")


@explained
def lowers(
    *ops: str | Trait,
    accumulator_scale: AccumulatorScale | None = None,
    result_quant: ResultQuant | None = None,
    accepts: Accepts | None = None,
) -> Callable[[LowerFunction], LowerFunction]:
    """Register a function as the integer lowering of ops, or of every op with a trait that has none of its own."""
    return LOWERINGS.register(*ops, make=lambda function: IntegerLowering(function, accumulator_scale, result_quant, accepts))


@explained
def lowering_of(op: OpDef) -> IntegerLowering | None:
    """The integer lowering of an op, or None when the integer stage cannot express it."""
    own = LOWERINGS.get(op.name)
    if own is not None:
        return own
    return next((entry for key, entry in LOWERINGS.items() if isinstance(key, Trait) and op.has(key)), None)


@explained
def accepts(node: Node, march: MarchSpec) -> Reason | None:
    """Why the integer stage cannot express `node` on a march, whatever its scales will be; None when it can."""
    if node.op.has(Trait.REMOVED) or node.op.has(Trait.BOUNDARY) or node.op.has(Trait.INTEGER):
        return None
    entry = lowering_of(node.op)
    if entry is None:
        return Reason(
            f"{node.op.name} has no integer arithmetic in hqc",
            hint="register a lowering with hqc.passes.lower_to_integer.lowers to run it on the BPU",
            id="no-integer-arithmetic",
        )
    return None if entry.accepts is None else entry.accepts(node, march)
