"""Element-wise operators of several tensors, comparisons, casts."""

from __future__ import annotations

import functools

import numpy as np

from hqc.frontend.onnx.context import OnnxContext, Operand, Unexpressed
from hqc.frontend.onnx.reader import element_type
from hqc.frontend.onnx.registry import LOWERINGS, Lowering, lowers_onnx
from hqc.ir import DType, Value

_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Equal": "equal", "Greater": "greater", "Less": "less", "GreaterOrEqual": "greater_equal",
    "LessOrEqual": "less_equal", "And": "logical_and", "Or": "logical_or",
}  # fmt: skip


def _binary(op: str) -> Lowering:
    return lambda ctx: ctx.emit(op, ctx.required(0), ctx.required(1))


for _type, _op in _BINARY.items():
    LOWERINGS.add(_type, _binary(_op))


@lowers_onnx("Div")
def div(ctx: OnnxContext) -> Value:
    a, b = ctx.required(0), ctx.required(1)
    if not ctx.dtype(a).is_float:
        raise Unexpressed("it divides integers, which drops the rest")
    return ctx.emit("div", a, b)


@lowers_onnx("Pow")
def pow_(ctx: OnnxContext) -> Value:
    """A uniform constant exponent is an attribute, and a square is a product."""
    x, exponent = ctx.required(0), ctx.required(1)
    if isinstance(exponent, np.ndarray) and exponent.size == 1:
        number = float(exponent.reshape(-1)[0])
        if not isinstance(x, np.ndarray) and x.type.dtype.is_float:
            return ctx.emit("pow_scalar", x, exponent=number)
    return ctx.emit("pow", x, ctx.cast(exponent, DType.FLOAT32, "exponent"))


@lowers_onnx("Max", "Min", "Sum", "Mean")
def variadic(ctx: OnnxContext) -> Operand:
    """Chains of two-operand nodes."""
    op = {"Max": "maximum", "Min": "minimum", "Sum": "add", "Mean": "add"}[ctx.node.op_type]
    operands = [ctx.required(index) for index in range(len(ctx.node.input))]
    mean = ctx.node.op_type == "Mean" and len(operands) > 1
    if len(operands) == 1:
        return ctx.emit("identity", operands[0])
    steps = iter([f"step{index}" for index in range(len(operands) - 2)] + (["total"] if mean else [""]))
    total = functools.reduce(lambda a, b: ctx.emit(op, a, b, what=next(steps) or None), operands)
    return ctx.emit("mul", total, float(1 / len(operands))) if mean else total


@lowers_onnx("Where")
def where(ctx: OnnxContext) -> Value:
    return ctx.emit("where", ctx.required(0), ctx.required(1), ctx.required(2))


@lowers_onnx("Xor")
def xor(ctx: OnnxContext) -> Value:
    a, b = ctx.required(0), ctx.required(1)
    same = ctx.emit("logical_and", a, b, what="both")
    return ctx.emit("logical_and", ctx.emit("logical_or", a, b, what="any"), ctx.emit("logical_not", same, what="not_both"))


@lowers_onnx("Cast")
def cast(ctx: OnnxContext) -> Value:
    dtype = element_type(int(ctx.attribute("to")))
    if dtype is None:
        raise Unexpressed("the IR has no such element type")
    x = ctx.data()
    return ctx.emit("identity", x) if x.type.dtype is dtype else ctx.emit("cast", x, dtype=dtype)


@lowers_onnx("CastLike")
def cast_like(ctx: OnnxContext) -> Operand:
    """Of a constant: a constant, whatever the values of the other operand are."""
    dtype = ctx.dtype(ctx.required(1))
    x = ctx.required(0)
    return x.astype(dtype.numpy) if isinstance(x, np.ndarray) else ctx.emit("cast", x, dtype=dtype)
