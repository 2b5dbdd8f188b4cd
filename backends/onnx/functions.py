"""Function bodies in standard opset-11 ops, so that stock onnxruntime runs a model with `horizon` nodes.

Also the rounding and saturation that the other flavours write inline, through the same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hqc.arithmetic import OFF_GRID_MARGIN, bounds
from hqc.backends.onnx.builder import ELEMENT_TYPES, OPSET_VERSION
from hqc.backends.onnx.domain import ATTRIBUTES, DEQUANTIZE, DOMAIN, QUANTIZE, Variant
from hqc.ir import DType

INTEGER_TYPES = {8: DType.INT8, 16: DType.INT16, 32: DType.INT32}


class Appender(Protocol):
    """What a `Builder` and a `FunctionBody` have in common: append a node, make a constant."""

    def __call__(self, op_type: str, *inputs: str | None, **attributes: Any) -> str: ...

    def scalar(self, value: float, dtype: DType = ...) -> str: ...

    def ints(self, values: Sequence[int]) -> str: ...


def rounded(b: Appender, x: str, rounding: str, dtype: DType = DType.FLOAT32) -> str:
    """`hqc.arithmetic.round_to_int` in opset-11 ops; `off_grid`: the rounding of `quantize_off_grid`."""
    if rounding == "half_even":
        return b("Round", x)
    if rounding == "floor":
        return b("Floor", x)
    if rounding == "off_grid":
        return b("Floor", b("Add", x, b.scalar(OFF_GRID_MARGIN, dtype)))
    if rounding == "half_up":
        return _half_up(b, x, dtype)
    return b("Mul", b("Sign", x), _half_up(b, b("Abs", x), dtype))


def _half_up(b: Appender, x: str, dtype: DType) -> str:
    """`floor(x) + (x - floor(x) >= 0.5)`: x + 0.5 would round before the floor does."""
    whole = b("Floor", x)
    up = b("Not", b("Less", b("Sub", x, whole), b.scalar(0.5, dtype)))
    return b("Add", whole, b("Cast", up, to=ELEMENT_TYPES[dtype]))


def grid_index(b: Appender, x: str, scale: str, bits: int, rounding: str) -> str:
    """`sat(round(x / scale))` in float32; `scale` must broadcast with `x`."""
    low, high = bounds(bits)
    return b("Clip", rounded(b, b("Div", x, scale), rounding), b.scalar(low), b.scalar(high))


class FunctionBody:
    """Nodes of a model-local function under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[bytes, str] = {}

    def __call__(self, op_type: str, *inputs: str | None, **attributes: Any) -> str:
        name = f"{op_type.lower()}_{len(self.nodes)}"
        node = helper.make_node(op_type, [item or "" for item in inputs], [name])
        node.attribute.extend(helper.make_attribute(key, attributes[key]) for key in sorted(attributes))
        self.nodes.append(node)
        return name

    def constant(self, array: np.ndarray[Any, Any]) -> str:
        tensor = numpy_helper.from_array(array)
        key = tensor.SerializeToString(deterministic=True)
        if key not in self._constants:
            self._constants[key] = self("Constant", value=tensor)
        return self._constants[key]

    def scalar(self, value: float, dtype: DType = DType.FLOAT32) -> str:
        return self.constant(np.array(value, dtype.numpy))

    def ints(self, values: Sequence[int]) -> str:
        return self.constant(np.array(values, np.int64))

    def along(self, scale: str, channel: tuple[int, int] | None) -> str:
        """A per-channel scale reshaped to broadcast along its axis."""
        if channel is None:
            return scale
        axis, rank = channel
        return self("Reshape", scale, self.constant(np.array([-1 if i == axis else 1 for i in range(rank)], np.int64)))

    def function(
        self, name: str, inputs: list[str], result: str, output: str, attributes: Sequence[str] = ATTRIBUTES
    ) -> onnx.FunctionProto:
        """The function `name(inputs) -> output` whose body computes `result`; `attributes`: those that its nodes carry."""
        for node in self.nodes:
            for index, item in enumerate(node.output):
                if item == result:
                    node.output[index] = output
        imports = [helper.make_opsetid("", OPSET_VERSION)]
        return helper.make_function(DOMAIN, name, inputs, [output], self.nodes, imports, list(attributes))


def quantize_function(variant: Variant) -> onnx.FunctionProto:
    """Body of HzQuantize: Div, Round (or Floor, ...), Clip, Cast."""
    body = FunctionBody()
    index = grid_index(body, "x", body.along("scale", variant.channel), variant.bits, variant.rounding)
    result = body("Cast", index, to=ELEMENT_TYPES[INTEGER_TYPES[variant.bits]])
    return body.function(variant.op_type(QUANTIZE), ["x", "scale", "zero_point"], result, "q")


def dequantize_function(variant: Variant) -> onnx.FunctionProto:
    """Body of HzDequantize: Cast, Mul."""
    body = FunctionBody()
    real = body("Cast", "q", to=ELEMENT_TYPES[DType.FLOAT32])
    result = body("Mul", real, body.along("scale", variant.channel))
    return body.function(variant.op_type(DEQUANTIZE), ["q", "scale", "zero_point"], result, "y")
