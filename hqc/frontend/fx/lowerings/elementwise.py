"""Arithmetic, comparisons and logic on two or three tensors."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

from hqc.frontend.fx.context import LoweringContext, Operand
from hqc.frontend.fx.lowerings import activation
from hqc.frontend.fx.lowerings.activation import as_float
from hqc.frontend.fx.registry import lower_function, lower_method
from hqc.ir import DType, Value


def _scaled(ctx: LoweringContext, operand: Operand, alpha: float) -> Operand:
    if alpha == 1:
        return operand
    if isinstance(operand, Value):
        return ctx.emit("mul", *ctx.promote(operand, alpha), what="scaled")
    scaled = operand * alpha
    ctx.mark_trained(ctx.node, scaled, [operand])
    return scaled


def _is_zero(operand: Operand) -> bool:
    return isinstance(operand, int) and operand == 0


@lower_function(torch.add, operator.add)
def add(ctx: LoweringContext, input: Operand, other: Operand, *, alpha: float = 1) -> Value:
    if isinstance(input, Value) and _is_zero(other):
        return ctx.emit("identity", input)
    if isinstance(other, Value) and _is_zero(input) and alpha == 1:  # sum([x, y]) begins with 0 + x
        return ctx.emit("identity", other)
    return ctx.emit("add", *ctx.promote(input, _scaled(ctx, other, alpha)))


@lower_function(torch.sub, torch.subtract, operator.sub)
def sub(ctx: LoweringContext, input: Operand, other: Operand, *, alpha: float = 1) -> Value:
    return ctx.emit("sub", *ctx.promote(input, _scaled(ctx, other, alpha)))


@lower_method("__radd__")
def reflected_add(ctx: LoweringContext, input: Value, other: Operand) -> Value:
    return add(ctx, other, input)


@lower_method("__rmul__")
def reflected_mul(ctx: LoweringContext, input: Value, other: Operand) -> Value:
    return mul(ctx, other, input)


@lower_method("__rdiv__", "__rtruediv__")
def reflected_div(ctx: LoweringContext, input: Value, other: Operand) -> Value:
    return div(ctx, other, input)


@lower_method("__rpow__")
def reflected_pow(ctx: LoweringContext, input: Value, other: Operand) -> Value:
    return pow_(ctx, other, input)


@lower_method("__rsub__")
@lower_function(torch.rsub)
def rsub(ctx: LoweringContext, input: Operand, other: Operand, *, alpha: float = 1) -> Value:
    return sub(ctx, other, input, alpha=alpha)


@lower_function(torch.mul, torch.multiply, operator.mul)
def mul(ctx: LoweringContext, input: Operand, other: Operand) -> Value:
    return ctx.emit("mul", *ctx.promote(input, other))


@lower_function(torch.div, torch.divide, torch.true_divide, operator.truediv)
def div(ctx: LoweringContext, input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Value:
    dtype = ctx.promoted_dtype(input, other)
    if rounding_mode in ("floor", "trunc") and dtype.is_float:
        return ctx.emit(rounding_mode, ctx.emit("div", *ctx.promote(input, other), what="quotient"))
    if rounding_mode is not None:
        raise ctx.cannot(f"rounding_mode={rounding_mode!r} of {dtype.value}")
    if isinstance(other, Value) and not isinstance(input, (Value, torch.Tensor)) and input == 1:
        return ctx.emit("reciprocal", as_float(ctx, other))
    return ctx.emit("div", *ctx.promote(input, other, dtype=dtype if dtype.is_float else DType.FLOAT32))


@lower_function(torch.floor_divide, operator.floordiv)
def floor_divide(ctx: LoweringContext, input: Operand, other: Operand) -> Value:
    return div(ctx, input, other, rounding_mode="floor")


@lower_function(torch.pow, operator.pow)
def pow_(ctx: LoweringContext, input: Operand, exponent: Operand) -> Value:
    if isinstance(exponent, torch.Tensor) and exponent.ndim == 0:
        exponent = exponent.item()
    if isinstance(exponent, (int, float)):
        assert isinstance(input, Value)
        if not input.type.dtype.is_float:
            if not isinstance(exponent, float):
                raise ctx.cannot("the base and the exponent are integers")
            input = as_float(ctx, input)
        return ctx.emit("pow_scalar", input, exponent=float(exponent))
    base, power = ctx.promote(input, exponent)
    if not base.type.dtype.is_float:
        raise ctx.cannot("the base and the exponent are integers")
    return ctx.emit("pow", base, power)


@lower_function(torch.square)
def square(ctx: LoweringContext, input: Value) -> Value:
    """A product, as exporters write it."""
    return ctx.emit("mul", input, input)


@lower_function(operator.neg)
def neg(ctx: LoweringContext, input: Value) -> Value:
    return ctx.emit("neg", input)


@lower_function(abs)
def abs_(ctx: LoweringContext, input: Value) -> Value:
    return ctx.emit("abs", input)


@lower_function(round)
def round_(ctx: LoweringContext, input: Value, ndigits: int | None = None) -> Value:
    return activation.round_(ctx, input, decimals=ndigits or 0)


def _binary(op: str, *functions: Callable[..., Any]) -> None:
    def lower(ctx: LoweringContext, input: Operand, other: Operand) -> Value:
        return ctx.emit(op, *ctx.promote(input, other))

    lower_function(*functions)(lower)


_binary("maximum", torch.maximum)
_binary("minimum", torch.minimum)
_binary("equal", torch.eq, operator.eq)
_binary("greater", torch.gt, torch.greater, operator.gt)
_binary("less", torch.lt, torch.less, operator.lt)
_binary("greater_equal", torch.ge, torch.greater_equal, operator.ge)
_binary("less_equal", torch.le, torch.less_equal, operator.le)


@lower_function(torch.ne, torch.not_equal, operator.ne)
def not_equal(ctx: LoweringContext, input: Operand, other: Operand) -> Value:
    return ctx.emit("logical_not", ctx.emit("equal", *ctx.promote(input, other), what="equal"))


def truth(ctx: LoweringContext, operand: Operand, what: str = "truth") -> Value:
    """Whether each element is not 0."""
    return ctx.cast(operand, DType.BOOL, what=what)


def _logical(op: str, logical: Callable[..., Any], *bitwise: Callable[..., Any]) -> None:
    """`logical_*` ask for truths and take any type; the bitwise forms are the same for truths, and not for numbers."""

    def lower(ctx: LoweringContext, input: Operand, other: Operand) -> Value:
        return ctx.emit(op, truth(ctx, input, "a_truth"), truth(ctx, other, "b_truth"))

    def lower_bitwise(ctx: LoweringContext, input: Operand, other: Operand) -> Value:
        if ctx.promoted_dtype(input, other) is not DType.BOOL:
            raise ctx.cannot("the operands are not boolean")
        return lower(ctx, input, other)

    lower_function(logical)(lower)
    lower_function(*bitwise)(lower_bitwise)


_logical("logical_and", torch.logical_and, torch.bitwise_and, operator.and_)
_logical("logical_or", torch.logical_or, torch.bitwise_or, operator.or_)


@lower_function(torch.logical_not)
def logical_not(ctx: LoweringContext, input: Value) -> Value:
    return ctx.emit("logical_not", truth(ctx, input))


@lower_function(torch.bitwise_not, operator.invert)
def bitwise_not(ctx: LoweringContext, input: Value) -> Value:
    if input.type.dtype is not DType.BOOL:
        raise ctx.cannot("the operand is not boolean")
    return ctx.emit("logical_not", input)


@lower_function(torch.logical_xor, torch.bitwise_xor, operator.xor)
def logical_xor(ctx: LoweringContext, input: Operand, other: Operand) -> Value:
    """Truths differ when they are not equal."""
    if ctx.promoted_dtype(input, other) is not DType.BOOL and ctx.node.target not in (torch.logical_xor, "logical_xor"):
        raise ctx.cannot("the operands are not boolean")
    return ctx.emit("logical_not", ctx.emit("equal", truth(ctx, input, "a_truth"), truth(ctx, other, "b_truth"), what="equal"))


@lower_function(torch.lerp)
def lerp(ctx: LoweringContext, input: Value, end: Operand, weight: Operand) -> Value:
    span = ctx.emit("sub", *ctx.promote(end, input), what="span")
    return ctx.emit("add", input, ctx.emit("mul", *ctx.promote(span, weight), what="part"))


def _added(op: str, function: Callable[..., Any]) -> None:
    """`input + value * tensor1 (* or /) tensor2`."""

    def lower(ctx: LoweringContext, input: Operand, tensor1: Operand, tensor2: Operand, *, value: float = 1) -> Value:
        term = ctx.emit(op, *ctx.promote(tensor1, tensor2), what="term")
        return ctx.emit("add", *ctx.promote(input, _scaled(ctx, term, value)))

    lower_function(function)(lower)


_added("mul", torch.addcmul)
_added("div", torch.addcdiv)


@lower_function(torch.float_power)
def float_power(ctx: LoweringContext, input: Operand, exponent: Operand) -> Value:
    """A power in double precision."""
    return pow_(ctx, ctx.cast(input, DType.FLOAT64, what="base"), exponent)


@lower_function(torch.where)
def where(ctx: LoweringContext, condition: Operand, input: Operand | None = None, other: Operand | None = None) -> Value:
    if input is None or other is None:
        raise ctx.error("where(condition) gives as many indices as the data has, and a deployed graph has static shapes")
    return ctx.emit("where", truth(ctx, condition, "condition"), *ctx.promote(input, other))


@lower_method("where")
def where_method(ctx: LoweringContext, input: Operand, condition: Operand, other: Operand) -> Value:
    return where(ctx, condition, input, other)


@lower_method("masked_fill")
@lower_function(torch.masked_fill)
def masked_fill(ctx: LoweringContext, input: Value, mask: Operand, value: Operand) -> Value:
    filler, kept = ctx.promote(value, input, dtype=input.type.dtype)
    return ctx.emit("where", truth(ctx, mask, "mask_truth"), filler, kept)
