"""How each flavour writes a fake quantization: `horizon` pairs, pairs with function bodies, or standard ops only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import numpy as np

from hqc.arithmetic import quantize
from hqc.backends.onnx.builder import ELEMENT_TYPES, Builder, CustomOps
from hqc.backends.onnx.domain import DEQUANTIZE, DOMAIN, QUANTIZE, VERSION, Variant
from hqc.backends.onnx.functions import INTEGER_TYPES, dequantize_function, grid_index, quantize_function
from hqc.errors import InputError
from hqc.ir import DType, QuantParams, TensorType, Value

Flavour = Literal["horizon", "runnable", "qdq", "integer"]
FLAVOURS: tuple[str, ...] = get_args(Flavour)


def _channel(quant: QuantParams, rank: int) -> tuple[int, int] | None:
    return None if quant.axis is None else (quant.axis % rank, rank)


class FakeQuantWriter(ABC):
    """Appends what makes a real value lie on a grid and returns the name to read it under. `custom_ops`: see `Builder`."""

    custom_ops: CustomOps = ""

    @abstractmethod
    def activation(self, b: Builder, name: str, type: TensorType, quant: QuantParams, rounding: str) -> str:
        """A computed value; `name` is its real value."""

    def parameter(self, b: Builder, name: str, value: Value, quant: QuantParams) -> str:
        """A constant, always rounded half to even; `name` is its initializer."""
        return self.activation(b, name, value.type, quant, "half_even")


class HorizonWriter(FakeQuantWriter):
    """HzQuantize / HzDequantize pairs. With `bodies`, variants have names of their own and a function each."""

    def __init__(self, *, bodies: bool) -> None:
        self.bodies = bodies
        self.custom_ops = "bodies" if bodies else "nodes"

    def activation(self, b: Builder, name: str, type: TensorType, quant: QuantParams, rounding: str) -> str:
        assert type.shape is not None
        variant = Variant(quant.dtype.bits, rounding, _channel(quant, len(type.shape)))
        quantize_op, dequantize_op = QUANTIZE, DEQUANTIZE
        if self.bodies:
            quantize_op, dequantize_op = variant.op_type(QUANTIZE), variant.op_type(DEQUANTIZE)
            b.functions.setdefault(quantize_op, quantize_function(variant))
            b.functions.setdefault(dequantize_op, dequantize_function(variant))
        b.domains[DOMAIN] = VERSION
        integer = INTEGER_TYPES[quant.dtype.bits]
        scale = b.constant(quant.scale, np.float32, "scale")
        zero_point = b.constant(np.zeros(quant.scale.shape), integer.numpy, "zero_point")
        bits, axis = quant.dtype.bits, -1 if variant.channel is None else variant.channel[0]
        q = b(quantize_op, name, scale, zero_point, domain=DOMAIN, what=QUANTIZE, bits=bits, axis=axis)
        b.set_type(q, type.with_dtype(integer))
        y = b(dequantize_op, q, scale, zero_point, domain=DOMAIN, what=DEQUANTIZE, bits=bits, axis=axis)
        return b.set_type(y, type)


class QdqWriter(FakeQuantWriter):
    """Standard ops: QuantizeLinear where opset 11's says the same, else the arithmetic spelled out."""

    def activation(self, b: Builder, name: str, type: TensorType, quant: QuantParams, rounding: str) -> str:
        scale = b.constant(quant.scale, np.float32, "scale")
        if quant.dtype is DType.INT8 and rounding == "half_even" and quant.axis is None:
            zero_point = b.constant(0, np.int8, "zero_point")
            return b("DequantizeLinear", b("QuantizeLinear", name, scale, zero_point), scale, zero_point)
        if quant.axis is not None:
            scale = self._broadcast_scale(b, type, quant)
        return b("Mul", grid_index(b, name, scale, quant.dtype.bits, rounding), scale)

    def parameter(self, b: Builder, name: str, value: Value, quant: QuantParams) -> str:
        """Opset 11 has no per-channel QuantizeLinear: integers in the file, Cast, Mul."""
        assert value.array is not None
        integers = quantize(value.array, quant.scale, quant.dtype.bits, axis=quant.axis).astype(quant.dtype.numpy)
        q = b.constant(integers, quant.dtype.numpy, "quantized")
        real = b("Cast", q, to=ELEMENT_TYPES[DType.FLOAT32])
        return b("Mul", real, self._broadcast_scale(b, value.type, quant))

    @staticmethod
    def _broadcast_scale(b: Builder, type: TensorType, quant: QuantParams) -> str:
        assert type.shape is not None
        channel = _channel(quant, len(type.shape))
        if channel is None:
            return b.constant(quant.scale, np.float32, "scale")
        shape = [-1 if i == channel[0] else 1 for i in range(channel[1])]
        return b.constant(quant.scale.reshape(shape), np.float32, "scale")


def writer(flavour: str) -> FakeQuantWriter:
    """The writer of a flavour of scaled graphs; `InputError` for another name."""
    if flavour not in FLAVOURS:
        raise InputError(f"unknown ONNX flavour {flavour!r}; known: {', '.join(FLAVOURS)}")
    return QdqWriter() if flavour == "qdq" else HorizonWriter(bodies=flavour == "runnable")
