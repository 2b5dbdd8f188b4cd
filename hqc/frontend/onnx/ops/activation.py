"""Functions of one tensor."""

from __future__ import annotations

import math

import numpy as np

from hqc.frontend.onnx.context import OnnxContext, Operand, Unexpressed
from hqc.frontend.onnx.registry import LOWERINGS, Lowering, lowers_onnx
from hqc.ir import Value

_PLAIN = {
    "Abs": "abs", "Atan": "atan", "Ceil": "ceil", "Cos": "cos", "Erf": "erf", "Exp": "exp", "Floor": "floor", "HardSwish": "hardswish",
    "Log": "log", "Mish": "mish", "Neg": "neg", "Reciprocal": "reciprocal", "Relu": "relu", "Round": "round", "Sigmoid": "sigmoid",
    "Sign": "sign", "Sin": "sin", "Softplus": "softplus", "Softsign": "softsign", "Sqrt": "sqrt", "Tan": "tan", "Tanh": "tanh",
    "Identity": "identity", "Not": "logical_not",
}  # fmt: skip
"""Operators that the IR has under another spelling."""


def _plain(op: str) -> Lowering:
    return lambda ctx: ctx.emit(op, ctx.data())


for _type, _op in _PLAIN.items():
    LOWERINGS.add(_type, _plain(_op))


def _close(value: float, *others: float) -> bool:
    return any(math.isclose(value, other, rel_tol=1e-5) for other in others)


@lowers_onnx("Elu")
def elu(ctx: OnnxContext) -> Value:
    return ctx.emit("elu", ctx.data(), alpha=float(ctx.attribute("alpha", 1.0)))


@lowers_onnx("Selu")
def selu(ctx: OnnxContext) -> Value:
    alpha, gamma = ctx.attribute("alpha", 1.67326319217681884765625), ctx.attribute("gamma", 1.05070102214813232421875)
    if not (_close(alpha, 1.6732632) and _close(gamma, 1.050701)):
        raise Unexpressed(f"its alpha={alpha:.6g} and gamma={gamma:.6g} are not those of the paper")
    return ctx.emit("selu", ctx.data())


@lowers_onnx("LeakyRelu")
def leaky_relu(ctx: OnnxContext) -> Value:
    return ctx.emit("leaky_relu", ctx.data(), slope=float(ctx.attribute("alpha", 0.01)))


@lowers_onnx("Gelu")
def gelu(ctx: OnnxContext) -> Value:
    return ctx.emit("gelu", ctx.data(), approximate=ctx.attribute("approximate", "none"))


@lowers_onnx("HardSigmoid")
def hard_sigmoid(ctx: OnnxContext) -> Value:
    """`clip(alpha x + beta, 0, 1)`: the IR's own where the constants are those of torch."""
    alpha, beta = ctx.attribute("alpha", 0.2), ctx.attribute("beta", 0.5)
    if _close(alpha, 1 / 6) and _close(beta, 0.5):
        return ctx.emit("hardsigmoid", ctx.data())
    scaled = ctx.emit("mul", ctx.data(), float(alpha), what="scaled")
    shifted = ctx.emit("add", scaled, float(beta), what="shifted")
    return ctx.emit("clamp", shifted, min=0.0, max=1.0)


@lowers_onnx("ThresholdedRelu")
def thresholded_relu(ctx: OnnxContext) -> Value:
    x = ctx.data()
    above = ctx.emit("greater", x, float(ctx.attribute("alpha", 1.0)), what="above")
    return ctx.emit("where", above, x, 0.0)


@lowers_onnx("PRelu")
def prelu(ctx: OnnxContext) -> Value:
    """The slope is one number or one per channel; other shapes are written out."""
    x, slope = ctx.data(), ctx.required(1)
    shape = ctx.shape(slope)
    channels = ctx.shape(x)[1] if ctx.rank(x) > 1 else 1
    size = math.prod(shape)
    per_channel = size == channels and len(shape) == ctx.rank(x) - 1 and shape[0] == channels
    if isinstance(slope, np.ndarray) and (size == 1 or per_channel):
        return ctx.emit("prelu", x, slope.reshape(-1))
    positive = ctx.emit("relu", x, what="positive")
    negative = ctx.emit("minimum", x, 0.0, what="negative")
    return ctx.emit("add", positive, ctx.emit("mul", negative, slope, what="scaled"))


@lowers_onnx("Clip")
def clip(ctx: OnnxContext) -> Value:
    """Bounds are attributes up to opset 10 and constant operands from 11 on."""
    least, most = (_bound(ctx, name, index) for index, name in enumerate(("min", "max"), start=1))
    x = ctx.data()
    if not x.type.dtype.is_float:
        raise Unexpressed("it clips integers")
    return ctx.emit("clamp", x, min=least, max=most)


def _bound(ctx: OnnxContext, name: str, index: int) -> float | None:
    if ctx.opset < 11:
        given = ctx.attribute(name)
        extreme = float(np.finfo(np.float32).max)
        return None if given is None or abs(given) >= extreme else float(given)
    array = ctx.constant(index)
    return None if array is None or not np.isfinite(array).all() else float(array.reshape(-1)[0])


@lowers_onnx("Dropout")
def dropout(ctx: OnnxContext) -> Value | tuple[Operand, ...]:
    """Nothing in inference; its mask is all true."""
    x = ctx.data()
    given = ctx.constant(1) if ctx.opset >= 12 else ctx.attribute("ratio")
    result = ctx.emit("dropout", x, p=0.5 if given is None else float(np.reshape(given, -1)[0]))
    if len(ctx.node.output) > 1 and ctx.node.output[1]:
        return result, np.ones(ctx.shape(x), bool)
    return result


@lowers_onnx("Softmax", "LogSoftmax")
def softmax(ctx: OnnxContext) -> Value:
    """Up to opset 12 over all axes from `axis` on, flattened; from 13 on over `axis` alone."""
    x = ctx.data()
    op = "softmax" if ctx.node.op_type == "Softmax" else "log_softmax"
    shape = ctx.shape(x)
    axis = ctx.axis(default=1 if ctx.opset < 13 else -1, of=x)
    if ctx.opset >= 13 or math.prod(shape[axis:]) == shape[axis]:
        return ctx.emit(op, x, axis=axis)
    flat = ctx.reshape(x, (math.prod(shape[:axis]), math.prod(shape[axis:])), what="flat")
    return ctx.reshape(ctx.emit(op, flat, what="rows", axis=1), shape)
