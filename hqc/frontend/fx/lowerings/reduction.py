"""Reductions and softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext, Operand
from hqc.frontend.fx.lowerings import elementwise
from hqc.frontend.fx.lowerings.activation import as_float
from hqc.frontend.fx.registry import lower_function, lower_module
from hqc.ir import DType, Value

Dims = int | Sequence[int] | None


class Extremum(NamedTuple):
    """What `max(dim)` returns; `indices` is None when nothing reads it."""

    values: Value | None
    indices: Value | None


def _axes(ctx: LoweringContext, input: Value, dim: Dims) -> tuple[int, ...]:
    dims = () if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    return tuple(ctx.axis(input, axis) for axis in dims)


@lower_function(torch.mean)
def mean(
    ctx: LoweringContext, input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    _only_float32(ctx, dtype)
    return ctx.emit("mean", input, axes=_axes(ctx, input, dim), keepdims=keepdim)


@lower_function(torch.sum)
def sum_(
    ctx: LoweringContext, input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    _only_float32(ctx, dtype)
    x = input if input.type.dtype.is_float else ctx.cast(input, DType.INT64, what="x_cast")
    return ctx.emit("sum", x, axes=_axes(ctx, input, dim), keepdims=keepdim)


def _only_float32(ctx: LoweringContext, dtype: torch.dtype | None) -> None:
    if dtype not in (None, torch.float32):
        raise ctx.cannot(f"dtype={dtype}")


@lower_function(torch.amax)
def amax(ctx: LoweringContext, input: Value, dim: Dims = (), keepdim: bool = False) -> Value:
    return ctx.emit("reduce_max", input, axes=_axes(ctx, input, dim), keepdims=keepdim)


@lower_function(torch.amin)
def amin(ctx: LoweringContext, input: Value, dim: Dims = (), keepdim: bool = False) -> Value:
    return ctx.emit("reduce_min", input, axes=_axes(ctx, input, dim), keepdims=keepdim)


def _extremum(op: str, arg: str, pairwise: str, function: Callable[..., Any]) -> None:
    def lower(
        ctx: LoweringContext, input: Value, dim: Any = None, keepdim: bool = False, *, other: Operand | None = None
    ) -> Any:
        if other is None and isinstance(dim, (Value, torch.Tensor)):
            other = dim
        if other is not None:
            return ctx.emit(pairwise, *ctx.promote(input, other))
        if dim is None:
            return ctx.emit(op, input)
        axis = ctx.axis(input, dim)
        names = ctx.result_names(2)
        used = ctx.used_results(2)
        (values,) = ctx.emit_results(op, input, names=names[:1], axes=(axis,), keepdims=keepdim) if 0 in used else (None,)
        (indices,) = ctx.emit_results(arg, input, names=names[1:], axis=axis, keepdims=keepdim) if 1 in used else (None,)
        return Extremum(values, indices)

    lower_function(function)(lower)


_extremum("reduce_max", "argmax", "maximum", torch.max)
_extremum("reduce_min", "argmin", "minimum", torch.min)


def _arg(op: str, function: Callable[..., Any]) -> None:
    def lower(ctx: LoweringContext, input: Value, dim: int | None = None, keepdim: bool = False) -> Value:
        if dim is None:
            flat = ctx.reshape(input, (-1,), what="flat")
            return ctx.emit(op, flat, axis=0, keepdims=False)
        return ctx.emit(op, input, axis=ctx.axis(input, dim), keepdims=keepdim)

    lower_function(function)(lower)


_arg("argmax", torch.argmax)
_arg("argmin", torch.argmin)


def _softmax(op: str, cls: type[nn.Module], *functions: Callable[..., Any]) -> None:
    def lower(
        ctx: LoweringContext, input: Value, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
    ) -> Value:
        if dim is None:
            raise ctx.error(f"{op} without dim is ambiguous; say along which dimension")
        _only_float32(ctx, dtype)
        return ctx.emit(op, as_float(ctx, input), axis=ctx.axis(input, dim))

    def lower_of_module(ctx: LoweringContext, module: Any, input: Value) -> Value:
        return lower(ctx, input, module.dim)

    lower_function(*functions)(lower)
    lower_module(cls)(lower_of_module)


_softmax("softmax", nn.Softmax, torch.softmax, F.softmax)
_softmax("log_softmax", nn.LogSoftmax, torch.log_softmax, F.log_softmax)


@lower_module(nn.Softmax2d)
def softmax2d(ctx: LoweringContext, module: nn.Softmax2d, input: Value) -> Value:
    return ctx.emit("softmax", input, axis=ctx.axis(input, -3))


@lower_function(F.normalize)
def normalize(ctx: LoweringContext, input: Value, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Value:
    """`x / max(||x||_2, eps)`."""
    if p != 2:
        raise ctx.cannot(f"p={p}")
    squares = ctx.emit("pow_scalar", input, what="squares", exponent=2.0)
    total = ctx.emit("sum", squares, what="total", axes=_axes(ctx, input, dim), keepdims=True)
    norm = ctx.emit("clamp", ctx.emit("sqrt", total, what="norm"), what="bounded", min=eps)
    return elementwise.div(ctx, input, norm)
