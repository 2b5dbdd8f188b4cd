"""Element-wise ops on two or more tensors. docs/arithmetic.md section 5."""

from __future__ import annotations

import math

import numpy as np

from hqc import arithmetic
from hqc.ir import DType, Node, QuantParams, Value
from hqc.ir.graph import constant_array
from hqc.march.spec import MarchSpec
from hqc.passes.conv_scales import operand_scale, tensor_scale
from hqc.passes.lower_to_integer import acceptance
from hqc.passes.lower_to_integer.acceptance import broadcasts_only, uniform, usable_constants
from hqc.passes.lower_to_integer.activation import table
from hqc.passes.lower_to_integer.context import Lowering
from hqc.passes.lower_to_integer.registry import lowers

INT32_ROOM = 2**30
"""Largest constant term of a sum, so that the int32 accumulator keeps room for the other operand."""


def _split(node: Node, low: Lowering) -> tuple[Value, Value | None]:
    """The activation and the constant of a binary node; the constant is None when both are activations."""
    a, b = node.operands
    if a.is_parameter and b.is_parameter:
        raise low.refuse("both operands are constants; run canonicalize, which folds them")
    if a.is_parameter:
        return b, a
    return a, b if b.is_parameter else None


# --- add, sub ----------------------------------------------------------------------------------------------------------


def _unit(node: Node, march: MarchSpec) -> float:
    """The unit t of a sum of two activations; with a constant the unit is finer or the constant decides, never coarser."""
    a, b = node.operands
    if a.is_parameter or b.is_parameter:
        other = b if a.is_parameter else a
        return arithmetic.add_unit(tensor_scale(other, node), tensor_scale(other, node), 8)
    return arithmetic.add_unit(tensor_scale(a, node), tensor_scale(b, node), 8)


@lowers("add", accumulator_scale=_unit, accepts=usable_constants)
def add(node: Node, low: Lowering) -> None:
    """`q_1 K_1 + q_2 K_2`, requantized from the common unit."""
    _sum(node, low, 1)


@lowers("sub", accumulator_scale=_unit, accepts=usable_constants)
def sub(node: Node, low: Lowering) -> None:
    """`q_1 K_1 - q_2 K_2`, requantized from the common unit."""
    _sum(node, low, -1)


def _sum(node: Node, low: Lowering, sign: int) -> None:
    x, constant = _split(node, low)
    if constant is not None:
        _sum_with_constant(node, low, x, constant, sign)
        return
    a, b = node.operands
    bits = 16 if DType.INT16 in (low.dtype(a), low.dtype(b)) else 8
    unit = arithmetic.add_unit(low.scale(a), low.scale(b), bits)
    factors = {"k_a": arithmetic.add_factor(low.scale(a), unit), "k_b": sign * arithmetic.add_factor(low.scale(b), unit)}
    requant, attributes = low.requant(unit)
    low.become("int_add", [a, b, requant], {**factors, **attributes})


def _sum_with_constant(node: Node, low: Lowering, x: Value, constant: Value, sign: int) -> None:
    wide = low.dtype(x) is DType.INT16
    bits = 16 if wide else 8
    array = constant_array(constant).astype(np.float64)
    scale, number = low.scale(x), uniform(constant)
    unit = arithmetic.add_unit(scale, scale, bits)
    if number is not None and not wide and abs(number) / unit > INT32_ROOM:
        unit = arithmetic.add_unit(scale, low.constant_scale(constant), bits)
    if number is not None:
        terms = np.full(array.shape, math.floor(number / unit + 0.5), np.int64)
    else:
        step = low.constant_scale(constant)
        unit = arithmetic.add_unit(scale, step, bits)
        terms = arithmetic.quantize(array, step) * arithmetic.add_factor(step, unit)
    factor = arithmetic.add_factor(scale, unit)
    constant_first = node.inputs[0] is constant
    if sign < 0 and constant_first:
        factor = -factor
    elif sign < 0:
        terms = -terms
    operand = low.parameter("constant", terms.astype(np.int64 if wide else np.int32))
    requant, attributes = low.requant(unit)
    low.become("int_add", [x, operand, requant], {"k_a": factor, "k_b": 1, **attributes})


# --- mul, div, pow -----------------------------------------------------------------------------------------------------


def _factor(node: Node, march: MarchSpec) -> float | None:
    """The number a node multiplies its activation by, where scale folding applies: a uniform constant that is not 0."""
    a, b = node.operands
    constant, other = (a, b) if a.is_parameter else (b, a)
    number = uniform(constant)
    if march.power_of_two or number is None or number == 0 or not broadcasts_only(constant, other):
        return None
    if node.op.name == "div":
        return None if a.is_parameter else 1.0 / number
    return number


def _folded_quant(node: Node, march: MarchSpec) -> QuantParams | None:
    """`s * |c|` for a product with a scalar that has no scale of its own."""
    factor = _factor(node, march)
    source = next(iter(node.data_operands)).quant
    if factor is None or source is None or source.per_channel:
        return None
    return source.replace(scale=np.float32(float(source.scale) * abs(factor)), fixed=False)


def _product_scale(node: Node, march: MarchSpec) -> float:
    return math.prod(operand_scale(value, node, march) for value in node.operands)


@lowers("mul", accumulator_scale=_product_scale, result_quant=_folded_quant, accepts=usable_constants)
def mul(node: Node, low: Lowering) -> None:
    """`q_1 * q_2`, requantized from `s_1 * s_2`; a scalar folds into the scale."""
    x, constant = _split(node, low)
    factor = _factor(node, low.march) if constant is not None else None
    if factor is not None:
        _scaled(low, x, factor)
        return
    operands, scales = zip(*map(low.factor, node.operands), strict=True)
    requant, attributes = low.requant(math.prod(scales))
    low.become("int_mul", [*operands, requant], attributes)


def _scaled(low: Lowering, x: Value, factor: float) -> None:
    """`x * factor`: the integers stay when the result's scale is `s * |factor|`; a negative factor multiplies by -1."""
    acc, result = low.scale(x) * abs(factor), low.result_quant
    same = np.float32(acc) == result.scale and low.dtype(x) is result.dtype
    if factor > 0 and same:
        low.become("int_requantize", [x], {"mode": "clip", "dtype": result.dtype})
        return
    requant, attributes = low.requant(float(result.scale) if same else acc)
    if factor > 0:
        low.become("int_requantize", [x, requant], attributes)
    else:
        minus_one = low.parameter("sign", np.array(-1, np.int8))
        low.become("int_mul", [x, minus_one, requant], attributes)


@lowers("div", result_quant=_folded_quant, accepts=usable_constants)
def div(node: Node, low: Lowering) -> None:
    """By a scalar: its reciprocal folds into the scale. A scalar by x: a table. Else exact division (`ideal`)."""
    x, constant = _split(node, low)
    number = uniform(constant)
    factor = _factor(node, low.march) if constant is not None else None
    if factor is not None:
        _scaled(low, x, factor)
        return
    if number is not None and constant is node.inputs[0] and constant is not None and broadcasts_only(constant, x):
        table(low, x, lambda real: number / real)
        return
    if constant is not None and constant is node.inputs[1] and not low.march.power_of_two and constant_array(constant).all():
        # The steps of an int8 divisor are coarse where it is small; those of its reciprocal are not.
        reciprocal = low.graph.add_parameter(f"{node.name}_reciprocal", np.float32(1) / constant_array(constant))
        (left, left_scale), (right, right_scale) = low.factor(x), low.factor(reciprocal)
        requant, attributes = low.requant(left_scale * right_scale)
        low.become("int_mul", [left, right, requant], attributes)
        return
    operands, scales = zip(*map(low.factor, node.operands), strict=True)
    ratio = scales[0] / (scales[1] * float(low.result_quant.scale))
    low.become("int_div", operands, {"ratio": ratio, "dtype": low.result_quant.dtype})


@lowers("pow", accepts=acceptance.power)
def pow_(node: Node, low: Lowering) -> None:
    """A power with one constant, uniform operand is a function of the other: a table."""
    x, constant = _split(node, low)
    number = uniform(constant)
    if number is None or constant is None or not broadcasts_only(constant, x):
        raise low.refuse("the BPU has no power of two tensors; give it a constant exponent, or let it run on the CPU")
    base = number
    if constant is node.inputs[0]:
        table(low, x, lambda real: np.power(base, real))
    else:
        table(low, x, lambda real: np.power(real, base))


# --- selections and comparisons ------------------------------------------------------------------------------------------


def _coarsest_operand(node: Node, march: MarchSpec) -> float:
    return max(tensor_scale(value, node) for value in node.data_operands if value.type.dtype is not DType.BOOL)


@lowers("maximum", "minimum", accumulator_scale=_coarsest_operand, accepts=usable_constants)
def extremum(node: Node, low: Lowering) -> None:
    """Operands on the result's grid, then integers are compared."""
    low.keep([low.on_grid(value, low.result_quant) for value in node.operands])


@lowers("where", accumulator_scale=_coarsest_operand, accepts=usable_constants)
def where(node: Node, low: Lowering) -> None:
    """Both branches on the result's grid."""
    condition, *branches = node.operands
    low.keep([condition, *(low.on_grid(value, low.result_quant) for value in branches)])


@lowers("equal", "greater", "less", "greater_equal", "less_equal", accepts=usable_constants)
def comparison(node: Node, low: Lowering) -> None:
    """On integers, after requantizing to the larger scale (and the wider type)."""
    grids = [low.quant(value) for value in node.data_operands if value.quant is not None]
    if not grids:
        if any(value.type.dtype.is_float for value in node.operands):
            raise low.refuse("none of the operands has a scale")
        low.keep(node.inputs)
        return
    dtype = max((grid.dtype for grid in grids), key=lambda dtype: dtype.bits)
    scale = max(operand_scale(value, node, low.march) for value in node.operands)
    grid = QuantParams(np.float32(scale), dtype)
    low.keep([low.on_grid(value, grid) for value in node.operands])


@lowers("logical_and", "logical_or", "logical_not", accepts=acceptance.truth_values)
def logical(node: Node, low: Lowering) -> None:
    """Truth values stay as they are."""
    if any(value.type.dtype is not DType.BOOL for value in node.operands):
        raise low.refuse("logical ops on the BPU take truth values")
    low.keep(node.inputs)


# --- requantize --------------------------------------------------------------------------------------------------------


@lowers("requantize", accumulator_scale=lambda node, march: tensor_scale(node.operands[0], node))
def requantize(node: Node, low: Lowering) -> None:
    """The same real value on the result's grid."""
    (x,) = node.operands
    quant, result = low.quant(x), low.result_quant
    if np.float32(low.scale(x)) == result.scale:
        low.become("int_requantize", [x], {"mode": "clip", "dtype": result.dtype})
        return
    requant, attributes = low.requant(float(quant.scale))
    low.become("int_requantize", [x, requant], attributes)
