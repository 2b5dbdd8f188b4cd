"""Element-wise ops on one or more tensors with NumPy broadcasting. A scalar operand is a parameter of shape []."""

from __future__ import annotations

from hqc.ir.op import Attr, Attributes, OperandTypes, Trait, op
from hqc.ir.ops._shapes import broadcast, first, present, same_as_first
from hqc.ir.types import DType, TensorType

_ELEMENTWISE = {Trait.ELEMENTWISE}


def _binary(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    a, b = first(types), present(types, 1)
    return [a.with_shape(broadcast(a.shape, b.shape))]


def _comparison(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    return [_binary(types, attributes)[0].with_dtype(DType.BOOL)]


add = op("add", operands="a, b", traits={Trait.ELEMENTWISE, Trait.SUM}, doc="`a + b`.")(_binary)
sub = op("sub", operands="a, b", traits=_ELEMENTWISE, doc="`a - b`.")(_binary)
mul = op("mul", operands="a, b", traits=_ELEMENTWISE, doc="`a * b`.")(_binary)
div = op("div", operands="a, b", traits=_ELEMENTWISE, doc="`a / b`.")(_binary)
maximum = op("maximum", operands="a, b", traits=_ELEMENTWISE, doc="The larger of a and b.")(_binary)
minimum = op("minimum", operands="a, b", traits=_ELEMENTWISE, doc="The smaller of a and b.")(_binary)
pow_ = op("pow", operands="a, b", traits=_ELEMENTWISE, doc="`a^b`.")(_binary)

_COMPARISON = {Trait.ELEMENTWISE, Trait.INTEGER_RESULT}
equal = op("equal", operands="a, b", traits=_COMPARISON, doc="`a == b`.")(_comparison)
greater = op("greater", operands="a, b", traits=_COMPARISON, doc="`a > b`.")(_comparison)
less = op("less", operands="a, b", traits=_COMPARISON, doc="`a < b`.")(_comparison)
greater_equal = op("greater_equal", operands="a, b", traits=_COMPARISON, doc="`a >= b`.")(_comparison)
less_equal = op("less_equal", operands="a, b", traits=_COMPARISON, doc="`a <= b`.")(_comparison)
logical_and = op("logical_and", operands="a, b", traits=_COMPARISON, doc="Both hold.")(_comparison)
logical_or = op("logical_or", operands="a, b", traits=_COMPARISON, doc="At least one holds.")(_comparison)
logical_not = op("logical_not", operands="x", traits=_COMPARISON, doc="Does not hold.")(same_as_first)


@op("where", operands="condition, a, b", traits=_ELEMENTWISE)
def where(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`a` where `condition` (boolean) holds, else `b`."""
    condition, a, b = first(types), present(types, 1), present(types, 2)
    return [a.with_shape(broadcast(condition.shape, a.shape, b.shape))]


@op("cast", operands="x", attributes=(Attr("dtype", "dtype", required=True),), traits=_ELEMENTWISE)
def cast(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Conversion to another element type, as torch and NumPy do it."""
    return [first(types).with_dtype(attributes["dtype"])]
