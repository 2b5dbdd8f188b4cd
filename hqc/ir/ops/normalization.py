"""Normalizations. Statistics of batch norm are constants: inference only."""

from __future__ import annotations

from hqc.ir.op import Attr, Attributes, OperandTypes, op
from hqc.ir.ops._shapes import first, same_as_first
from hqc.ir.types import TensorType

_EPS = Attr("eps", "float", 1e-5)


@op("batch_norm", operands="x, mean, var, weight?, bias?", attributes=(_EPS,))
def batch_norm(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`(x - mean) / sqrt(var + eps) * weight + bias` along axis 1; all but x of shape `[C]`."""
    return [first(types)]


layer_norm = op(
    "layer_norm",
    operands="x, weight?, bias?",
    attributes=(Attr("normalized_ndim", "int", 1), _EPS),
    doc="Normalize over the last `normalized_ndim` axes.",
)(same_as_first)
group_norm = op(
    "group_norm",
    operands="x, weight?, bias?",
    attributes=(Attr("groups", "int", required=True, minimum=1), _EPS),
    doc="Normalize over groups of channels.",
)(same_as_first)
instance_norm = op(
    "instance_norm", operands="x, weight?, bias?", attributes=(_EPS,), doc="Normalize each channel of each sample."
)(same_as_first)
