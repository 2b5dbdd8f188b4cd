"""Ops that move values between the real and the quantized world.

Before the integer stage every value keeps its real type and carries `QuantParams`; from it on, quantized values have integer
types. `quantize` and `dequantize` run on the CPU side of the boundary.
"""

from __future__ import annotations

from hqc.ir.op import Attr, Attributes, OperandTypes, Trait, op
from hqc.ir.ops._shapes import first
from hqc.ir.types import DType, TensorType


@op(
    "quantize",
    operands="x",
    attributes=(
        Attr("dtype", "dtype", DType.INT8),
        Attr("rounding", "str", "half_even", choices=("half_even", "half_away", "half_up", "floor")),
        Attr("stub", "bool", False),
        Attr("integer", "bool", False),
    ),
    traits={Trait.BOUNDARY},
)
def quantize(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Real to grid: the result carries QuantParams. Before scales are known they are absent. `stub`: a user's QuantStub.

    Until the integer stage the result keeps the real dtype; in the integer stage (`integer`) it is stored as `dtype`.
    """
    x = first(types)
    return [x.with_dtype(attributes["dtype"] if attributes["integer"] else DType.FLOAT32)]


@op("dequantize", operands="x", attributes=(Attr("stub", "bool", False),), traits={Trait.BOUNDARY})
def dequantize(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Grid to real: `integer * scale` in float32. `stub`: a user's DeQuantStub."""
    return [first(types).with_dtype(DType.FLOAT32)]


@op("requantize", operands="x", attributes=(Attr("dtype", "dtype", DType.INT8),), traits={Trait.ELEMENTWISE})
def requantize(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """A value of one grid on another grid (the result's QuantParams), on the BPU."""
    return [first(types)]
