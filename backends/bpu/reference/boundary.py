"""Definitions of the ops between the real and the quantized world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hqc import arithmetic
from hqc.backends.bpu.reference import Array, reference
from hqc.ir import Node


@reference("quantize")
def quantize(node: Node, operands: Sequence[Any]) -> Array:
    quant, dtype = node.result.quant, node.result.type.dtype
    assert quant is not None
    q = arithmetic.quantize(operands[0], quant.scale, dtype.bits, node.attributes["rounding"], quant.axis)
    return q.astype(dtype.numpy)


@reference("dequantize")
def dequantize(node: Node, operands: Sequence[Any]) -> Array:
    quant = node.operands[0].quant
    assert quant is not None
    return arithmetic.dequantize(operands[0], quant.scale, quant.axis)
