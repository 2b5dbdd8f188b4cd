"""Reductions and softmax."""

from __future__ import annotations

from hqc.ir.op import Attr, Attributes, OperandTypes, Trait, op
from hqc.ir.ops._shapes import first, normalize_axis, reduced
from hqc.ir.types import DType, TensorType

_AXES = (Attr("axes", "ints", ()), Attr("keepdims", "bool", False))  # no axes: all of them


def _reduction(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    x = first(types)
    return [x.with_shape(reduced(x.shape, attributes["axes"], attributes["keepdims"]))]


mean = op("mean", operands="x", attributes=_AXES, traits={Trait.AVERAGE}, doc="Mean over axes.")(_reduction)
sum_ = op("sum", operands="x", attributes=_AXES, doc="Sum over axes.")(_reduction)
reduce_max = op("reduce_max", operands="x", attributes=_AXES, traits={Trait.PASS_THROUGH}, doc="Maximum over axes.")(_reduction)
reduce_min = op("reduce_min", operands="x", attributes=_AXES, traits={Trait.PASS_THROUGH}, doc="Minimum over axes.")(_reduction)

_AXIS = (Attr("axis", "int", required=True), Attr("keepdims", "bool", False))


def _arg(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    x = first(types)
    return [TensorType(DType.INT64, reduced(x.shape, (attributes["axis"],), attributes["keepdims"]))]


argmax = op(
    "argmax",
    operands="x",
    attributes=_AXIS,
    traits={Trait.INTEGER_RESULT},
    doc="Index of the largest element along `axis`, the lowest of equals.",
)(_arg)
argmin = op(
    "argmin",
    operands="x",
    attributes=_AXIS,
    traits={Trait.INTEGER_RESULT},
    doc="Index of the smallest element along `axis`, the lowest of equals.",
)(_arg)


def _along_axis(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    x = first(types)
    if x.shape is not None:
        normalize_axis(attributes["axis"], len(x.shape))
    return [x]


softmax = op(
    "softmax", operands="x", attributes=(Attr("axis", "int", required=True),), doc="`exp(x) / sum(exp(x))` along `axis`."
)(_along_axis)
log_softmax = op("log_softmax", operands="x", attributes=(Attr("axis", "int", required=True),), doc="Logarithm of softmax.")(
    _along_axis
)
