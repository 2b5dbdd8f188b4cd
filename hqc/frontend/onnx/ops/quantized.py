"""Models that are quantized already: QuantizeLinear / DequantizeLinear pairs and the QLinear operators.

The IR's values are real numbers with a grid, so a pair is one `quantize` node whose result has the pair's scale, and a QLinear
operator is the float operation between such values. The chips quantize symmetrically: other zero points keep the range and are said.
"""

from __future__ import annotations

import numpy as np

from hqc import arithmetic
from hqc.frontend.onnx.context import Array, OnnxContext, Operand, Unexpressed
from hqc.frontend.onnx.ops._windows import window
from hqc.frontend.onnx.registry import lowers_onnx
from hqc.ir import DType, QuantParams, Value

_BITS = {"int8": (DType.INT8, 128), "uint8": (DType.INT8, 128), "int16": (DType.INT16, 32768), "uint16": (DType.INT16, 32768)}


@lowers_onnx("QuantizeLinear")
def quantize_linear(ctx: OnnxContext) -> Operand:
    scale = ctx.constant(1)
    zero = ctx.operand(2)
    kind = zero.dtype.name if isinstance(zero, np.ndarray) else ctx.type_name(ctx.node.output[0]) or "uint8"
    if scale is None or (zero is not None and not isinstance(zero, np.ndarray)):
        raise Unexpressed("its scale or zero point is computed at run time")
    quant = activation_quant(ctx, scale, zero, kind)
    result = ctx.emit("quantize", ctx.data(), dtype=quant.dtype)
    result.quant = quant
    ctx.on_grid.add(result)
    return result


@lowers_onnx("DequantizeLinear")
def dequantize_linear(ctx: OnnxContext) -> Operand:
    """Of a quantized activation: itself. Of a constant: its real numbers, with the grid they are on."""
    q, scale, zero = ctx.required(0), ctx.constant(1), ctx.constant(2)
    if scale is None:
        raise ctx.error("has no scale")
    if isinstance(q, np.ndarray):
        return constant_on_grid(ctx, q, scale, zero, int(ctx.attribute("axis", 1)))
    if q not in ctx.on_grid:
        raise Unexpressed("what it reads was not quantized in this file")
    return ctx.emit("identity", q)


def activation_quant(ctx: OnnxContext, scale: Array, zero: Array | None, kind: str) -> QuantParams:
    """The symmetric grid of an activation: the same one where the zero point is the middle, else one that holds the same range."""
    if kind not in _BITS:
        raise Unexpressed(f"the IR has no activations of {kind}")
    if scale.size != 1:
        raise ctx.error("quantizes an activation per channel; the chips have one scale per tensor: quantize it per tensor")
    dtype, half = _BITS[kind]
    step, offset = float(scale.reshape(-1)[0]), 0 if zero is None else int(np.reshape(zero, -1)[0])
    middle = half if kind.startswith("u") else 0
    if offset == middle:
        return QuantParams(np.float32(step), dtype)
    low = 0 if kind.startswith("u") else -half
    least, most = (low - offset) * step, (low + 2 * half - 1 - offset) * step
    symmetric = arithmetic.scale_from_range(least, most, dtype.bits)
    ctx.warn(
        f"its zero point {offset} is not the middle of {kind}; the chips quantize symmetrically, so the range [{least:.4g}, {most:.4g}] "
        f"is kept with the scale {float(symmetric):.4g} instead of {step:.4g}"
    )
    return QuantParams(symmetric, dtype)


def constant_on_grid(ctx: OnnxContext, q: Array, scale: Array, zero: Array | None, axis: int) -> Operand:
    """`(q - zero) * scale` as a parameter; its grid is kept where it is the chips' (int8, zero point 0)."""
    axes = [1] * q.ndim
    if scale.size > 1:
        axes[axis % q.ndim] = scale.size
    spread = scale.astype(np.float32).reshape(axes) if q.ndim else scale.astype(np.float32).reshape(())
    offset = 0 if zero is None else zero.astype(np.int32).reshape(axes if zero.size > 1 else [1] * q.ndim)
    real = ((q.astype(np.int32) - offset) * spread).astype(np.float32)
    if q.dtype != np.int8 or np.any(offset):
        return real
    value = ctx.value(real)
    flat = scale.astype(np.float32).reshape(-1)
    if (flat > 0).all():
        value.quant = QuantParams(flat, DType.INT8, axis % q.ndim) if scale.size > 1 else QuantParams(flat[0], DType.INT8)
    return value


def _grid(ctx: OnnxContext, x: Operand, scale: int, zero: int, what: str) -> Value:
    """Operand `x` of a QLinear operator: quantized in the file, or else put on the grid that the operator states."""
    if isinstance(x, Value) and x in ctx.on_grid:
        return x
    step, offset = ctx.constant(scale), ctx.constant(zero)
    if step is None:
        raise ctx.error("has no scale")
    if isinstance(x, np.ndarray):
        return ctx.value(constant_on_grid(ctx, x, step, offset, 0))
    raise Unexpressed(f"its operand {what} was not quantized in this file")


def _result(ctx: OnnxContext, real: Value, scale: int, zero: int) -> Value:
    step, offset = ctx.constant(scale), ctx.constant(zero)
    if step is None:
        raise ctx.error("has no scale for its result")
    quant = activation_quant(ctx, step, offset, "uint8" if offset is None else offset.dtype.name)
    result = ctx.emit("quantize", real, dtype=quant.dtype)
    result.quant = quant
    ctx.on_grid.add(result)
    return result


@lowers_onnx("QLinearConv")
def qlinear_conv(ctx: OnnxContext) -> Value:
    x = _grid(ctx, ctx.required(0), 1, 2, "x")
    weight = _grid(ctx, ctx.required(3), 4, 5, "w")
    found = window(ctx, ctx.shape(weight)[2:], ctx.shape(x)[2:])
    bias, x_scale, w_scale = ctx.constant(8), ctx.constant(1), ctx.constant(4)
    assert x_scale is not None and w_scale is not None
    real = None if bias is None else (bias * (x_scale.reshape(-1) * w_scale.reshape(-1))).astype(np.float32)
    groups = int(ctx.attribute("group", 1))
    y = ctx.emit("conv2d", x, weight, real, what="conv", groups=groups, **found.attributes("stride", "padding", "dilation"))
    return _result(ctx, y, 6, 7)


@lowers_onnx("QLinearMatMul")
def qlinear_matmul(ctx: OnnxContext) -> Value:
    a, b = _grid(ctx, ctx.required(0), 1, 2, "a"), _grid(ctx, ctx.required(3), 4, 5, "b")
    return _result(ctx, ctx.emit("matmul", a, b, what="product"), 6, 7)


@lowers_onnx("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul")
def qlinear_binary(ctx: OnnxContext) -> Value:
    a, b = _grid(ctx, ctx.required(0), 1, 2, "a"), _grid(ctx, ctx.required(3), 4, 5, "b")
    return _result(ctx, ctx.emit("add" if ctx.node.op_type.endswith("Add") else "mul", a, b, what="real"), 6, 7)


@lowers_onnx("com.microsoft.QLinearSigmoid", "com.microsoft.QLinearLeakyRelu", "com.microsoft.QLinearGlobalAveragePool")
def qlinear_unary(ctx: OnnxContext) -> Value:
    x = _grid(ctx, ctx.required(0), 1, 2, "x")
    if ctx.node.op_type == "QLinearGlobalAveragePool":
        if ctx.attribute("channels_last", 0):
            raise Unexpressed("its channels come last")
        return _result(ctx, ctx.emit("adaptive_avg_pool2d", x, what="real", output_size=(1, 1)), 3, 4)
    if ctx.node.op_type == "QLinearSigmoid":
        return _result(ctx, ctx.emit("sigmoid", x, what="real"), 3, 4)
    return _result(ctx, ctx.emit("leaky_relu", x, what="real", slope=float(ctx.attribute("alpha", 0.01))), 3, 4)


@lowers_onnx("com.microsoft.QLinearConcat")
def qlinear_concat(ctx: OnnxContext) -> Value:
    parts = [_grid(ctx, ctx.required(k), k + 1, k + 2, f"{(k - 2) // 3}") for k in range(2, len(ctx.node.input), 3)]
    joined = ctx.emit("cat", *parts, what="real", axis=ctx.axis(default=1, of=parts[0]))
    return _result(ctx, joined, 0, 1)
