"""Models that are quantized already: QuantizeLinear / DequantizeLinear pairs and the QLinear operators.

The IR's values are real numbers with a grid, so a pair is one `quantize` node whose result has the pair's scale, and a QLinear
operator is the float operation between such values. The chips quantize symmetrically: other zero points keep the range and are said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import numpy as np

from hqc import arithmetic
from hqc.frontend.onnx.context import Array, OnnxContext, Operand, Unexpressed
from hqc.frontend.onnx.ops._windows import window
from hqc.frontend.onnx.quantized_inputs import FileGrid
from hqc.frontend.onnx.registry import lowers_onnx
from hqc.ir import DType, Node, QuantParams, Trait, Value
from hqc.structures import reached

_BITS = {"int8": (DType.INT8, 128), "uint8": (DType.INT8, 128), "int16": (DType.INT16, 32768), "uint16": (DType.INT16, 32768)}


@lowers_onnx("QuantizeLinear")
def quantize_linear(ctx: OnnxContext) -> Operand:
    scale = ctx.constant(1)
    zero = ctx.operand(2)
    kind = zero.dtype.name if isinstance(zero, np.ndarray) else ctx.type_name(ctx.node.output[0]) or "uint8"
    if scale is None or (zero is not None and not isinstance(zero, np.ndarray)):
        raise Unexpressed("its scale or zero point is computed at run time")
    return _quantized(ctx, ctx.data(), activation_quant(ctx, scale, zero, kind), FileGrid(scale, zero, kind, ctx.node))


@lowers_onnx("DequantizeLinear")
def dequantize_linear(ctx: OnnxContext) -> Operand:
    """Of a quantized activation: itself. Of a constant: its real numbers, with the grid they are on."""
    q, scale, zero = ctx.required(0), ctx.constant(1), ctx.constant(2)
    if scale is None:
        raise ctx.error("has no scale")
    if isinstance(q, np.ndarray):
        return constant_on_grid(ctx, q, scale, zero, int(ctx.attribute("axis", 1)))
    if not on_grid(ctx, q):
        raise Unexpressed("what it reads was not quantized in this file")
    if _is_moved(ctx, q):
        return ctx.emit("identity", q)
    # What several values were put together in (a cat of integers) has the grid that is stated here.
    kind = "uint8" if zero is None else zero.dtype.name
    return _on_stated_grid(ctx, q, activation_quant(ctx, scale, zero, kind), FileGrid(scale, zero, kind, ctx.node))


def on_grid(ctx: OnnxContext, value: Value) -> bool:
    """True for what the file quantized, and for what only moves or picks elements of it."""
    for each in reached(value, lambda value: () if value in ctx.on_grid else _elements_of(value) or ()):
        if each not in ctx.on_grid and _elements_of(each) is None:
            return False
    return True


def _elements_of(value: Value) -> Sequence[Value] | None:
    """The values of which `value` has the elements, moved or picked; None where it has its own."""
    node = value.producer
    if node is None:
        return None
    if node.keeps_scale:
        return node.data_operands
    selects = node.op.has(Trait.SELECTS) and not node.op.has(Trait.INTEGER_RESULT)
    return node.operands if selects and not any(operand.is_parameter for operand in node.operands) else None


def _is_moved(ctx: OnnxContext, value: Value) -> bool:
    """True for a value that is `on_grid` by itself, False for one that was put together from several."""
    while value not in ctx.file_grids and value.producer is not None and value.producer.keeps_scale:
        value = value.producer.operands[0]
    return value in ctx.file_grids


def file_grid(ctx: OnnxContext, value: Value) -> FileGrid | None:
    """The grid that the file states for a value that is `on_grid`; for one put together from several, that of the first."""
    while value not in ctx.file_grids and value.producer is not None:
        value = value.producer.operands[0]
    return ctx.file_grids.get(value)


def _on_stated_grid(ctx: OnnxContext, x: Value, quant: QuantParams, grid: FileGrid) -> Value:
    result = ctx.emit("quantize", x, dtype=quant.dtype)
    put_on_grid(ctx, result, quant, grid)
    return result


def put_on_grid(ctx: OnnxContext, result: Value, quant: QuantParams, grid: FileGrid) -> None:
    """Note that `result`, of a quantize node, has this grid, which the file states as `grid`."""
    result.quant = quant
    ctx.on_grid.add(result)
    ctx.file_grids[result] = grid


def real_number(ctx: OnnxContext, x: Value, number: float) -> float:
    """What a number beside the integers of `x` stands for: itself beside reals."""
    grid = file_grid(ctx, x) if on_grid(ctx, x) else None
    return number if grid is None else (number - grid.offset) * float(grid.scale.reshape(-1)[0])


def _quantized(ctx: OnnxContext, x: Value, quant: QuantParams, grid: FileGrid) -> Value:
    """`x` on a grid. One that starts at 0 is how tools write an activation that they took in: a ReLU goes before it."""
    starts_at_zero = grid.has_offset(0 if grid.kind.startswith("u") else -_BITS[grid.kind][1])
    if starts_at_zero and not never_negative(x):
        x = ctx.emit("relu", x, what="clipped")
    return _on_stated_grid(ctx, x, quant, grid)


_NEVER_NEGATIVE = {"relu", "sigmoid", "softmax", "abs", "exp", "hardsigmoid", "softplus", "sqrt"}


def never_negative(x: Value) -> bool:
    """True for what is 0 or more as far as its producer tells; inputs of the model are taken for images."""
    for value in reached(x, lambda value: value.producer.data_operands if _keeps_sign(value.producer) else ()):
        node = value.producer
        if node is None or node.op.name in _NEVER_NEGATIVE or _keeps_sign(node):
            continue
        least = node.attributes["min"] if node.op.name == "clamp" else None
        if least is None or least < 0:
            return False
    return True


def _keeps_sign(node: Node | None) -> TypeGuard[Node]:
    """True for what is negative only where its operands are."""
    special = node is None or node.op.name in _NEVER_NEGATIVE or node.op.name == "clamp"
    return not special and node is not None and (node.op.name in ("quantize", "identity") or node.keeps_scale)


def activation_quant(ctx: OnnxContext, scale: Array, zero: Array | None, kind: str) -> QuantParams:
    """The symmetric grid of an activation: the same one where the zero point is the middle, else one that holds the same range."""
    if kind not in _BITS:
        raise Unexpressed(f"the IR has no activations of {kind}")
    dtype, half = _BITS[kind]
    if scale.size != 1:
        low = 0 if kind.startswith("u") else -half
        offsets = np.zeros(1) if zero is None else np.reshape(zero, -1).astype(np.float64)
        steps = scale.reshape(-1).astype(np.float64)
        widest = arithmetic.scale_from_range(
            float(((low - offsets) * steps).min()), float(((low + 2 * half - 1 - offsets) * steps).max()), dtype.bits
        )
        ctx.warn(
            f"it quantizes an activation per channel; the chips have one scale per tensor, so the range of the widest channel is kept with "
            f"the scale {float(widest):.4g} (the file's: {steps.min():.4g} to {steps.max():.4g})"
        )
        return QuantParams(widest, dtype)
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


def constant_on_grid(ctx: OnnxContext, q: Array, scale: Array, zero: Array | None, axis: int) -> Array:
    """`(q - zero) * scale`; its grid is kept where it is the chips' (int8, zero point 0)."""
    axes = [1] * q.ndim
    if scale.size > 1:
        axes[axis % q.ndim] = scale.size
    spread = scale.astype(np.float32).reshape(axes) if q.ndim else scale.astype(np.float32).reshape(())
    offset = 0 if zero is None else zero.astype(np.int32).reshape(axes if zero.size > 1 else [1] * q.ndim)
    real = ((q.astype(np.int32) - offset) * spread).astype(np.float32)
    if q.dtype != np.int8 or np.any(offset):
        return real
    flat = scale.astype(np.float32).reshape(-1)
    if not (flat > 0).all():
        return real
    quant = QuantParams(flat, DType.INT8, axis % q.ndim) if scale.size > 1 else QuantParams(flat[0], DType.INT8)
    return ctx.put_on_grid(real, quant)


def _grid(ctx: OnnxContext, x: Operand, scale: int, zero: int, what: str) -> Value:
    """Operand `x` of a QLinear operator: quantized in the file, or else put on the grid that the operator states."""
    if isinstance(x, Value) and on_grid(ctx, x):
        return x
    step, offset = ctx.constant(scale), ctx.constant(zero)
    if step is None:
        raise ctx.error("has no scale")
    if isinstance(x, np.ndarray):
        return ctx.value(constant_on_grid(ctx, x, step, offset, _weight_axis(ctx)))
    raise Unexpressed(f"its operand {what} was not quantized in this file")


def _weight_axis(ctx: OnnxContext) -> int:
    """Where the scales per channel of a constant operand lie: output channels of a kernel, columns of a matrix."""
    return 1 if ctx.node.op_type == "QLinearMatMul" else 0


def _result(ctx: OnnxContext, real: Value, scale: int, zero: int) -> Value:
    step, offset = ctx.constant(scale), ctx.constant(zero)
    if step is None:
        raise ctx.error("has no scale for its result")
    kind = "uint8" if offset is None else offset.dtype.name
    return _quantized(ctx, real, activation_quant(ctx, step, offset, kind), FileGrid(step, offset, kind, ctx.node))


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
    array = None if b.array is None else ctx.required(3)
    if isinstance(array, np.ndarray) and array.ndim == 2 and b.array is not None:
        weight = ctx.transposed(ctx.put_on_grid(np.array(b.array), b.quant))
        return _result(ctx, ctx.emit("linear", a, weight, what="product"), 6, 7)
    return _result(ctx, ctx.emit("matmul", a, b, what="product"), 6, 7)


@lowers_onnx("com.microsoft.QLinearAdd", "com.microsoft.QLinearMul")
def qlinear_binary(ctx: OnnxContext) -> Value:
    a, b = _grid(ctx, ctx.required(0), 1, 2, "a"), _grid(ctx, ctx.required(3), 4, 5, "b")
    return _result(ctx, ctx.emit("add" if ctx.node.op_type.endswith("Add") else "mul", a, b, what="real"), 6, 7)


@lowers_onnx("com.microsoft.QGemm")
def qgemm(ctx: OnnxContext) -> Value:
    """A linear layer; without a scale for the result it gives reals."""
    if ctx.attribute("transA", 0) or float(ctx.attribute("alpha", 1.0)) != 1.0:
        raise Unexpressed("it transposes or scales its first operand")
    a, b = _grid(ctx, ctx.required(0), 1, 2, "A"), ctx.required(3)
    if not isinstance(b, np.ndarray):
        raise Unexpressed("its weight is computed at run time")
    a_scale, b_scale, bias = ctx.constant(1), ctx.constant(4), ctx.constant(6)
    assert a_scale is not None and b_scale is not None
    transposed = bool(ctx.attribute("transB", 0))
    weight = constant_on_grid(ctx, b, b_scale, ctx.constant(5), 0 if transposed else 1)
    weight = weight if transposed else ctx.transposed(weight)
    real = None if bias is None else (bias.reshape(-1) * (a_scale.reshape(-1) * b_scale.reshape(-1))).astype(np.float32)
    result = len(ctx.node.input) > 7 and bool(ctx.node.input[7])
    y = ctx.emit("linear", a, weight, real, what="real" if result else None)
    return _result(ctx, y, 7, 8) if result else y


@lowers_onnx(
    "com.microsoft.QLinearSigmoid",
    "com.microsoft.QLinearLeakyRelu",
    "com.microsoft.QLinearSoftmax",
    "com.microsoft.QLinearGlobalAveragePool",
    "com.microsoft.QLinearAveragePool",
    "com.microsoft.QLinearReduceMean",
)
def qlinear_unary(ctx: OnnxContext) -> Value:
    x = _grid(ctx, ctx.required(0), 1, 2, "x")
    kind = ctx.node.op_type
    if ctx.attribute("channels_last", 0):
        raise Unexpressed("its channels come last")
    if kind == "QLinearGlobalAveragePool":
        real = ctx.emit("adaptive_avg_pool2d", x, what="real", output_size=(1, 1))
    elif kind == "QLinearAveragePool":
        found = window(ctx, ctx.ints("kernel_shape") or [], ctx.shape(x)[2:])
        given = found.attributes("kernel", "stride", "padding")
        counts = bool(ctx.attribute("count_include_pad", 0))
        ceil = bool(ctx.attribute("ceil_mode", 0))
        real = ctx.emit("avg_pool2d", x, what="real", ceil_mode=ceil, count_include_pad=counts, **given)
    elif kind == "QLinearReduceMean":
        axes = ctx.ints("axes", 5) or range(ctx.rank(x))
        whole = tuple(sorted(axis % ctx.rank(x) for axis in axes))
        real = ctx.emit("mean", x, what="real", axes=whole, keepdims=bool(ctx.attribute("keepdims", 1)))
    elif kind == "QLinearSoftmax":
        real = ctx.emit("softmax", x, what="real", axis=ctx.axis(of=x))
    elif kind == "QLinearSigmoid":
        real = ctx.emit("sigmoid", x, what="real")
    else:
        real = ctx.emit("leaky_relu", x, what="real", slope=float(ctx.attribute("alpha", 0.01)))
    return _result(ctx, real, 3, 4)


@lowers_onnx("com.microsoft.QLinearConcat")
def qlinear_concat(ctx: OnnxContext) -> Value:
    parts = [_grid(ctx, ctx.required(k), k + 1, k + 2, f"{(k - 2) // 3}") for k in range(2, len(ctx.node.input), 3)]
    joined = ctx.emit("cat", *parts, what="real", axis=ctx.axis(default=1, of=parts[0]))
    return _result(ctx, joined, 0, 1)
