"""Convolution, transposed convolution, linear, batch norm as a depthwise convolution, matmul. docs/arithmetic.md section 4."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc import arithmetic
from hqc.errors import QuantizationError
from hqc.ir import DType, Node, QuantParams, Value
from hqc.march.spec import MarchSpec
from hqc.passes.conv_scales import (
    accumulator_scale,
    constant_of,
    conv_operands,
    fit_headroom,
    high_precision_quant,
    operand_scale,
    tensor_scale,
    weight_axis,
)
from hqc.passes.lower_to_integer import acceptance
from hqc.passes.lower_to_integer.context import Lowering
from hqc.passes.lower_to_integer.registry import lowers

F64 = npt.NDArray[np.float64]
FLOAT_ATTRIBUTES = ("activation", "half_step")
"""Attributes that the integers say otherwise: by clips, and in the bias."""


@lowers(
    "conv2d",
    "conv_transpose2d",
    "linear",
    accumulator_scale=lambda node, march: float(accumulator_scale(node).max()),
    accepts=acceptance.conv_like,
)
def conv_like(node: Node, low: Lowering) -> None:
    """int8 weights, int32 bias (int64 beside int16), one requantization per output channel."""
    x, weight, bias, residual = conv_operands(node)
    raised = fit_headroom(node, low.march)
    if raised:
        low.remark(raised)
    if low.result_quant.dtype is DType.INT32:
        node.result.quant = high_precision_quant(node)
    acc = accumulator_scale(node)
    rows = node.op.name != "linear" and len(low.shape(x)) == 3
    int_weight = low.weight(weight, rows=rows)
    terms = _Terms(low, x, acc)
    if rows:
        x, residual = low.image(x), None if residual is None else low.image(residual)
    operands = [x, int_weight, terms.bias(bias), *terms.requant(), *terms.residual(residual)]
    attributes = {attr.name: node.attributes[attr.name] for attr in node.op.attributes if attr.name not in FLOAT_ATTRIBUTES}
    terms.prove(int_weight, weight_axis(node))
    attributes = {**attributes, **terms.attributes(), **_clip(node, low)}
    if rows:
        image = low.insert(f"int_{node.op.name}", operands, attributes, f"{node.name}_image", low.result_quant)
        low.become("reshape", [image], {"shape": (0, *low.shape(node.result)[1:])})
    else:
        low.become(f"int_{node.op.name}", operands, attributes)


class _Terms:
    """The integer operands of a multiply-accumulate node beside its weight."""

    def __init__(self, low: Lowering, x: Value, acc: F64) -> None:
        self.low, self.x, self.acc = low, x, acc
        self.wide = low.dtype(x) is DType.INT16
        self.extra: npt.NDArray[np.int64] = np.zeros(acc.size, np.int64)
        self.mode = "none"

    def bias(self, bias: Value | npt.NDArray[Any] | None) -> Value | None:
        if bias is None:
            return None
        array = constant_of(bias, self.low.node) if isinstance(bias, Value) else bias
        low = self.low
        narrow = bias.quant is not None if isinstance(bias, Value) else low.march.int8_bias
        q = arithmetic.bernoulli_bias(array, self.acc) if narrow else arithmetic.quantize_bias(array, self.acc)
        self.extra = self.extra + np.abs(q)
        return low.parameter("bias", q.astype(np.int64 if self.wide else np.int32))

    def requant(self) -> list[Value | None]:
        if self.low.result_quant.dtype is DType.INT32:
            return [None]
        params = self.low.requant_params(self.acc)
        self.mode = params.mode
        return [self.low.parameter("requant", params.array)]

    def residual(self, residual: Value | None) -> list[Value]:
        if residual is None:
            return []
        low = self.low
        dtype, ratio = low.dtype(residual), low.scale(residual) / self.acc
        params = arithmetic.residual_params(ratio, 16 if self.wide else dtype.bits, what=low.node.label)
        self.extra = self.extra + np.ceil(ratio * -dtype.qmin).astype(np.int64) + 1
        return [residual, low.parameter("residual_requant", params.array)]

    def attributes(self) -> dict[str, Any]:
        return {"mode": self.mode, "dtype": self.low.result_quant.dtype}

    def prove(self, weight: Value, axis: int) -> None:
        """Refuse a layer whose int32 accumulator could overflow; int16 operands accumulate in 64 bits."""
        if self.wide or weight.array is None:
            return
        depth = weight.array.size // weight.array.shape[axis]
        if depth * 128 * 128 + int(self.extra.max(initial=0)) < 2**31:
            return
        extra = self.extra.reshape(-1, weight.array.shape[axis]).max(axis=0)
        bound = arithmetic.accumulator_bound(weight.array, axis, 128, extra)
        if bound >= 2**31:
            raise QuantizationError(
                f"{self.low.node.label}: the accumulator may reach {bound}, beyond the 2147483647 of 32 bits "
                f"({depth} products per output); split the layer or run it on the CPU"
            )


def _clip(node: Node, low: Lowering) -> dict[str, int]:
    """Bounds of the result that a fused activation sets."""
    activation, quant = node.attributes["activation"], low.result_quant
    if activation == "none":
        return {}
    if activation == "relu":
        return {"clip_min": 0}
    if quant.per_channel:
        raise QuantizationError(
            f"{node.label}: {activation} cannot be fused into a high-precision (int32) output; give the layer an "
            f"activation qconfig, or let {activation} run on the CPU"
        )
    return {"clip_min": 0, "clip_max": min(quant.dtype.qmax, arithmetic.grid_bound(6.0, float(quant.scale)))}


# --- batch norm --------------------------------------------------------------------------------------------------------


def _unit_convolution(node: Node, march: MarchSpec) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], QuantParams]:
    """Weight `[C,1,1,1]`, bias `[C]` and weight scales of a batch norm as a depthwise 1x1 convolution."""
    x, mean, var = node.operands[:3]
    gamma, beta = node.operand("weight"), node.operand("bias")
    factor = 1.0 / np.sqrt(constant_of(var, node).astype(np.float64) + node.attributes["eps"])
    if gamma is not None:
        factor = factor * constant_of(gamma, node)
    bias = -constant_of(mean, node).astype(np.float64) * factor
    if beta is not None:
        bias = bias + constant_of(beta, node)
    weight = factor.astype(np.float32)
    scale = arithmetic.weight_scale(weight, weight)
    if march.power_of_two:
        scale = arithmetic.power_of_two_scale(scale)
    try:
        scale = arithmetic.headroom_weight_scale(np.abs(bias), tensor_scale(x, node), scale, power_of_two=march.power_of_two)
    except QuantizationError as error:
        raise QuantizationError(f"{node.label}: {error}") from None
    return weight.reshape(-1, 1, 1, 1), bias, QuantParams(scale, axis=0)


def _batch_norm_scale(node: Node, march: MarchSpec) -> float:
    _, _, quant = _unit_convolution(node, march)
    return tensor_scale(node.operands[0], node) * float(quant.scale.max())


@lowers("batch_norm", accumulator_scale=_batch_norm_scale, accepts=acceptance.batch_norm)
def batch_norm(node: Node, low: Lowering) -> None:
    """A batch norm that no convolution took in: a depthwise 1x1 convolution."""
    x = node.operands[0]
    if len(low.shape(x)) != 4:
        raise low.refuse(f"a batch norm alone runs on the BPU only on [N,C,H,W], got {x.type}; let it run on the CPU")
    weight, bias, quant = _unit_convolution(node, low.march)
    acc = low.scale(x) * quant.scale.astype(np.float64)
    int_weight = low.parameter("weight", arithmetic.quantize_weight(weight, quant.scale, 0), quant)
    terms = _Terms(low, x, acc)
    operands = [x, int_weight, terms.bias(bias), *terms.requant()]
    low.become("int_conv2d", operands, {"groups": weight.shape[0], **terms.attributes()})


# --- matmul ------------------------------------------------------------------------------------------------------------


def _matmul_scale(node: Node, march: MarchSpec) -> float:
    return math.prod(operand_scale(value, node, march) for value in node.operands)


@lowers("matmul", accumulator_scale=_matmul_scale, accepts=acceptance.matmul)
def matmul(node: Node, low: Lowering) -> None:
    """Product of two activations, or of one and an int8 constant: ratio `s_1 * s_2 / s_out`."""
    operands, scales = zip(*map(low.factor, node.operands), strict=True)
    depth = low.shape(node.operands[0])[-1]
    if all(operand.type.dtype is DType.INT8 for operand in operands) and depth * 128 * 128 >= 2**31:
        raise QuantizationError(f"{node.label}: {depth} products of int8 do not fit a 32-bit accumulator; split the matmul")
    requant, attributes = low.requant(math.prod(scales))
    low.become("int_matmul", [*operands, requant], attributes)
