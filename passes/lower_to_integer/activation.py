"""Functions of one tensor: clamps on integers, tables, PReLU. docs/arithmetic.md sections 5 and 6."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from hqc import arithmetic
from hqc.ir import Node, Trait, Value
from hqc.passes.conv_scales import constant_of
from hqc.passes.lower_to_integer.context import Lowering
from hqc.passes.lower_to_integer.registry import lowers

F64 = npt.NDArray[np.float64]


@lowers("relu")
def relu(node: Node, low: Lowering) -> None:
    """A clamp at 0."""
    low.become("clamp", [low.on_grid(node.operands[0], low.result_quant)], {"min": 0.0})


@lowers("clamp")
def clamp(node: Node, low: Lowering) -> None:
    """A clamp of integers at the operand's scale."""
    quant = low.result_quant
    scale = low.scale(node.result)

    def bound(value: float | None) -> float | None:
        if value is None:
            return None
        # An infinite bound, or one beyond the type, is the type's own bound.
        ratio = min(max(value / scale, quant.dtype.qmin - 1.0), quant.dtype.qmax + 1.0)
        return float(min(max(arithmetic.grid_bound(ratio, 1.0), quant.dtype.qmin), quant.dtype.qmax))

    bounds = {"min": bound(node.attributes["min"]), "max": bound(node.attributes["max"])}
    low.become("clamp", [low.on_grid(node.operands[0], quant)], bounds)


def table(low: Lowering, x: Value, function: Callable[[F64], F64]) -> None:
    """Turn the current node into a table of `function` at the scales of `x` and of the result."""
    source, result = low.quant(x), low.result_quant
    entries = arithmetic.sample_table(
        function,
        low.scale(x),
        low.scale(low.node.result),
        source.dtype.bits,
        result.dtype.bits,
        floor=result.rounding == "floor",
    )
    low.become("int_lut", [x, low.parameter("table", entries.astype(result.dtype.numpy))], {})


@lowers(Trait.LUT)
def table_op(node: Node, low: Lowering) -> None:
    """256 entries for an int8 operand, 65,536 for an int16 one."""
    function, attributes = node.op.function, dict(node.attributes)
    assert function is not None, node.op
    table(low, node.operands[0], lambda real: function(real, attributes))


@lowers("prelu", accumulator_scale=lambda node, march: _prelu_scale(node))
def prelu(node: Node, low: Lowering) -> None:
    """`requant(max(q, 0)) + requant(w_q * min(q, 0))` with int16 slopes."""
    x, weight = node.operands
    slopes = constant_of(weight, node)
    scale = _slope_scale(slopes)
    q = arithmetic.quantize(slopes, scale, 16).astype(np.int16).reshape(-1)
    positive, attributes = low.requant(low.scale(x), "requant_positive")
    negative, _ = low.requant(low.scale(x) * scale, "requant_negative")
    low.become("int_prelu", [x, low.parameter("weight", q), positive, negative], attributes)


def _slope_scale(slopes: npt.NDArray[np.generic]) -> float:
    """Slopes are int16 with one power-of-two scale, which every march can requantize from."""
    scale = float(arithmetic.scale_from_range(slopes.min(), slopes.max(), bits=16))
    return float(2.0 ** np.ceil(np.log2(scale)))


def _prelu_scale(node: Node) -> float:
    quant = node.operands[0].quant
    assert quant is not None
    return float(quant.scale) * max(1.0, _slope_scale(constant_of(node.operands[1], node)))
