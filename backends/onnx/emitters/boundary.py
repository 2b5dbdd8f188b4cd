"""Quantize and dequantize of the integer stage. In scaled graphs the flavour writes them (see `emit.py`)."""

from __future__ import annotations

import numpy as np

from hqc.backends.onnx.builder import ELEMENT_TYPES, Builder
from hqc.backends.onnx.emitters._operands import cast_to, operand_shape, type_of
from hqc.backends.onnx.functions import grid_index
from hqc.backends.onnx.registry import emitter
from hqc.errors import ExportError
from hqc.ir import DType, Node, QuantParams, Value


def _quant(node: Node, value: Value) -> QuantParams:
    if value.quant is None:
        raise ExportError(f"{node.label}: {value.name} has no scale; run propagate-scales before exporting")
    return value.quant


def _scale(b: Builder, quant: QuantParams, rank: int) -> str:
    """The scale, shaped so that it broadcasts along its axis."""
    if quant.axis is None:
        return b.constant(quant.scale, np.float32, "scale")
    shape = [-1 if i == quant.axis % rank else 1 for i in range(rank)]
    return b.constant(quant.scale.reshape(shape), np.float32, "scale")


@emitter("quantize")
def quantize(node: Node, b: Builder) -> str:
    """To integers; before the integer stage, to real values on the grid."""
    quant, rank = _quant(node, node.result), len(operand_shape(node))
    scale = _scale(b, quant, rank)
    index = grid_index(b, b.operand(node, 0), scale, quant.dtype.bits, node.attributes["rounding"])
    dtype = node.result.type.dtype
    return b("Mul", index, scale) if dtype.is_float else b("Cast", index, to=ELEMENT_TYPES[dtype])


@emitter("dequantize")
def dequantize(node: Node, b: Builder) -> str:
    """`integer * scale` in float32; before the integer stage its operand is real already."""
    x, dtype = b.operand(node, 0), type_of(node)
    if dtype.is_float:
        return b("Identity", x)
    quant = _quant(node, node.operands[0])
    return b("Mul", cast_to(b, x, dtype, DType.FLOAT32), _scale(b, quant, len(operand_shape(node))))


@emitter("requantize")
def requantize(node: Node, b: Builder) -> str:
    """Only before the integer stage, which has int_requantize."""
    quant = _quant(node, node.result)
    scale = _scale(b, quant, len(operand_shape(node)))
    return b("Mul", grid_index(b, b.operand(node, 0), scale, quant.dtype.bits, "half_even"), scale)
