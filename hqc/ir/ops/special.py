"""Ops without arithmetic of their own: identity, dropout, and calls that only the model's framework can run."""

from __future__ import annotations

from hqc.errors import ShapeError
from hqc.ir.op import Attr, Attributes, OperandTypes, Trait, first_range, op
from hqc.ir.ops._shapes import same_as_first
from hqc.ir.types import TensorType

identity = op(
    "identity",
    operands="x",
    traits={Trait.PASS_THROUGH, Trait.LAYOUT_ONLY, Trait.PASSIVE, Trait.REMOVED, Trait.SELECTS},
    compute=lambda arrays, a: arrays[0],
    doc="The operand itself.",
)(same_as_first)
dropout = op(
    "dropout",
    operands="x",
    attributes=(Attr("p", "float", 0.5),),
    traits={Trait.PASS_THROUGH, Trait.PASSIVE, Trait.REMOVED, Trait.SELECTS, Trait.TRAINING},
    compute=lambda arrays, a: arrays[0],
    bounds=first_range,
    doc="The operand itself in inference.",
)(same_as_first)


@op(
    "opaque",
    operands="xs*",
    attributes=(Attr("id", "str", required=True), Attr("macs", "int", 0, minimum=0), Attr("unwritable", "str", "")),
    traits={Trait.OPAQUE},
    macs=lambda types, results, a: int(a["macs"]),
)
def opaque(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """A call of the model's framework; `id` is the key of the callable given to `compile`. Result types are always given.
    `macs`: its multiply-accumulates. `unwritable`: the sentence that says why no ONNX file can hold it."""
    raise ShapeError(f"the result of {attributes['id']} is known only to the model's framework; give example inputs")
