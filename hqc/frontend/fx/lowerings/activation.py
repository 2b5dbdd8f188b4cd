"""Functions of one tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext, Operand
from hqc.frontend.fx.registry import lower_function, lower_module
from hqc.ir import DType, Value


def as_float(ctx: LoweringContext, x: Operand) -> Value:
    """Functions of real numbers give float32 for integer operands, as in torch."""
    value = ctx.value(x)
    return value if value.type.dtype.is_float else ctx.cast(value, DType.FLOAT32, what="x_cast")


def _simple(op: str, *functions: Callable[..., Any], module: type[nn.Module] | None = None) -> None:
    """Ops without attributes: the functions take (input[, inplace]), the module nothing."""

    def lower(ctx: LoweringContext, input: Value, inplace: bool = False) -> Value:
        return ctx.emit(op, as_float(ctx, input))

    lower_function(*functions)(lower)
    if module is not None:

        def lower_of_module(ctx: LoweringContext, owner: nn.Module, input: Value) -> Value:
            return ctx.emit(op, as_float(ctx, input))

        lower_module(module)(lower_of_module)


_simple("sigmoid", torch.sigmoid, F.sigmoid, torch.special.expit, module=nn.Sigmoid)
_simple("tanh", torch.tanh, F.tanh, module=nn.Tanh)
_simple("silu", F.silu, module=nn.SiLU)
_simple("hardswish", F.hardswish, module=nn.Hardswish)
_simple("hardsigmoid", F.hardsigmoid, module=nn.Hardsigmoid)
_simple("selu", F.selu, torch.selu, module=nn.SELU)
_simple("mish", F.mish, module=nn.Mish)
_simple("softsign", F.softsign, module=nn.Softsign)
_simple("exp", torch.exp)
_simple("log", torch.log)
_simple("sqrt", torch.sqrt)
_simple("rsqrt", torch.rsqrt)
_simple("reciprocal", torch.reciprocal)
_simple("sin", torch.sin)
_simple("cos", torch.cos)
_simple("tan", torch.tan)
_simple("atan", torch.atan, torch.arctan)
_simple("erf", torch.erf, torch.special.erf)
_simple("exp2", torch.exp2, torch.special.exp2)
_simple("expm1", torch.expm1, torch.special.expm1)
_simple("log2", torch.log2)
_simple("log10", torch.log10)
_simple("log1p", torch.log1p, torch.special.log1p)
_simple("sinh", torch.sinh)
_simple("cosh", torch.cosh)
_simple("asin", torch.asin, torch.arcsin)
_simple("acos", torch.acos, torch.arccos)
_simple("asinh", torch.asinh, torch.arcsinh)
_simple("acosh", torch.acosh, torch.arccosh)
_simple("atanh", torch.atanh, torch.arctanh)
_simple("log_sigmoid", F.logsigmoid, module=nn.LogSigmoid)
_simple("tanhshrink", F.tanhshrink, module=nn.Tanhshrink)


def _sign_like(op: str, *functions: Callable[..., Any]) -> None:
    """Ops that keep integers integers."""

    def lower(ctx: LoweringContext, input: Value) -> Value:
        return ctx.emit(op, input)

    lower_function(*functions)(lower)


_sign_like("abs", torch.abs, torch.absolute)
_sign_like("neg", torch.neg, torch.negative)
_sign_like("sign", torch.sign)


def _whole(op: str, *functions: Callable[..., Any]) -> None:
    """Rounding: integers stay what they are."""

    def lower(ctx: LoweringContext, input: Value) -> Value:
        return ctx.emit(op if input.type.dtype.is_float else "identity", input)

    lower_function(*functions)(lower)


_whole("floor", torch.floor, math.floor)
_whole("ceil", torch.ceil, math.ceil)
_whole("trunc", torch.trunc, torch.fix, math.trunc)


@lower_function(torch.round, torch.special.round)
def round_(ctx: LoweringContext, input: Value, *, decimals: int = 0) -> Value:
    if not input.type.dtype.is_float:
        if decimals < 0:
            raise ctx.cannot("decimals is negative and the operand an integer")
        return ctx.emit("identity", input)
    if decimals == 0:
        return ctx.emit("round", input)
    factor = 10.0 ** abs(decimals)  # exact, where 10 to a negative power is not
    there, back = ("mul", "div") if decimals > 0 else ("div", "mul")
    scaled = ctx.emit(there, *ctx.promote(input, factor), what="scaled")
    return ctx.emit(back, *ctx.promote(ctx.emit("round", scaled, what="whole"), factor))


@lower_function(torch.frac)
def frac(ctx: LoweringContext, input: Value) -> Value:
    return ctx.emit("sub", input, ctx.emit("trunc", input, what="whole"))


@lower_module(nn.ReLU)
def relu_module(ctx: LoweringContext, module: nn.ReLU, input: Value) -> Value:
    return ctx.emit("relu", input)


@lower_function(torch.relu, F.relu)
def relu(ctx: LoweringContext, input: Value, inplace: bool = False) -> Value:
    return ctx.emit("relu", input)


@lower_module(nn.Hardtanh)
def hardtanh_module(ctx: LoweringContext, module: nn.Hardtanh, input: Value) -> Value:
    return ctx.emit("clamp", input, min=module.min_val, max=module.max_val)


@lower_module(nn.ReLU6)
def relu6_module(ctx: LoweringContext, module: nn.ReLU6, input: Value) -> Value:
    return ctx.emit("clamp", input, min=0.0, max=6.0)


@lower_function(F.relu6)
def relu6(ctx: LoweringContext, input: Value, inplace: bool = False) -> Value:
    return ctx.emit("clamp", input, min=0.0, max=6.0)


@lower_function(F.hardtanh)
def hardtanh(ctx: LoweringContext, input: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Value:
    return ctx.emit("clamp", input, min=min_val, max=max_val)


@lower_function(torch.clamp, torch.clip)
def clamp(ctx: LoweringContext, input: Value, min: Operand | None = None, max: Operand | None = None) -> Value:
    bounds = [bound.item() if isinstance(bound, torch.Tensor) and bound.ndim == 0 else bound for bound in (min, max)]
    if all(bound is None or isinstance(bound, (int, float)) for bound in bounds):
        return ctx.emit("clamp", input, min=bounds[0], max=bounds[1])
    result = input
    if bounds[0] is not None:
        what = "low" if bounds[1] is not None else None
        result = ctx.emit("maximum", *ctx.promote(result, bounds[0]), what=what)
    if bounds[1] is not None:
        result = ctx.emit("minimum", *ctx.promote(result, bounds[1]))
    return result


@lower_function(torch.clamp_min)
def clamp_min(ctx: LoweringContext, input: Value, min: Operand) -> Value:
    return clamp(ctx, input, min)


@lower_function(torch.clamp_max)
def clamp_max(ctx: LoweringContext, input: Value, max: Operand) -> Value:
    return clamp(ctx, input, None, max)


@lower_module(nn.LeakyReLU)
def leaky_relu_module(ctx: LoweringContext, module: nn.LeakyReLU, input: Value) -> Value:
    return ctx.emit("leaky_relu", input, slope=module.negative_slope)


@lower_function(F.leaky_relu)
def leaky_relu(ctx: LoweringContext, input: Value, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    return ctx.emit("leaky_relu", input, slope=negative_slope)


@lower_module(nn.ELU)
def elu_module(ctx: LoweringContext, module: nn.ELU, input: Value) -> Value:
    return ctx.emit("elu", input, alpha=module.alpha)


@lower_function(F.elu)
def elu(ctx: LoweringContext, input: Value, alpha: float = 1.0, inplace: bool = False) -> Value:
    return ctx.emit("elu", input, alpha=alpha)


@lower_module(nn.CELU)
def celu_module(ctx: LoweringContext, module: nn.CELU, input: Value) -> Value:
    return ctx.emit("celu", input, alpha=module.alpha)


@lower_function(F.celu, torch.celu)
def celu(ctx: LoweringContext, input: Value, alpha: float = 1.0, inplace: bool = False) -> Value:
    return ctx.emit("celu", input, alpha=alpha)


def _shrink(op: str, cls: Any, function: Callable[..., Any]) -> None:
    def lower(ctx: LoweringContext, input: Value, lambd: float = 0.5) -> Value:
        return ctx.emit(op, input, bound=lambd)

    def lower_of_module(ctx: LoweringContext, module: Any, input: Value) -> Value:
        return ctx.emit(op, input, bound=module.lambd)

    lower_function(function)(lower)
    lower_module(cls)(lower_of_module)


_shrink("hardshrink", nn.Hardshrink, F.hardshrink)
_shrink("softshrink", nn.Softshrink, F.softshrink)


@lower_module(nn.Threshold)
def threshold_module(ctx: LoweringContext, module: nn.Threshold, input: Value) -> Value:
    return ctx.emit("threshold", input, bound=module.threshold, value=module.value)


@lower_function(F.threshold, torch.threshold)
def threshold(ctx: LoweringContext, input: Value, threshold: float, value: float, inplace: bool = False) -> Value:
    return ctx.emit("threshold", input, bound=threshold, value=value)


@lower_module(nn.GLU)
def glu_module(ctx: LoweringContext, module: nn.GLU, input: Value) -> Value:
    return glu(ctx, input, module.dim)


@lower_function(F.glu)
def glu(ctx: LoweringContext, input: Value, dim: int = -1) -> Value:
    """The first half times the sigmoid of the second."""
    axis = ctx.axis(input, dim)
    half = ctx.size(input, axis) // 2
    names = [ctx.free_name(f"{ctx.node.name}_{part}") for part in ("value", "gate")]
    value, gate = ctx.emit_results("split", input, names=names, axis=axis, sizes=(half, half))
    return ctx.emit("mul", value, ctx.emit("sigmoid", gate, what="sigmoid"))


@lower_module(nn.GELU)
def gelu_module(ctx: LoweringContext, module: nn.GELU, input: Value) -> Value:
    return ctx.emit("gelu", input, approximate=module.approximate)


@lower_function(F.gelu)
def gelu(ctx: LoweringContext, input: Value, *, approximate: str = "none") -> Value:
    return ctx.emit("gelu", input, approximate=approximate)


@lower_module(nn.Softplus)
def softplus_module(ctx: LoweringContext, module: nn.Softplus, input: Value) -> Value:
    return softplus(ctx, input, module.beta, module.threshold)


@lower_function(F.softplus)
def softplus(ctx: LoweringContext, input: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    # Beyond the threshold torch returns x itself; softplus(x) - x is below float32 resolution there for thresholds >= 17.
    if threshold < 17:
        raise ctx.cannot(f"threshold={threshold}")
    return ctx.emit("softplus", input, beta=beta)


@lower_module(nn.PReLU)
def prelu_module(ctx: LoweringContext, module: nn.PReLU, input: Value) -> Value:
    return prelu(ctx, input, module.weight)


@lower_function(torch.prelu, F.prelu)
def prelu(ctx: LoweringContext, input: Value, weight: Operand) -> Value:
    if ctx.shape(input) == ():
        return ctx.reshape(ctx.emit("prelu", ctx.reshape(input, (1,), what="vector"), weight, what="of_vector"), ())
    return ctx.emit("prelu", input, weight)
