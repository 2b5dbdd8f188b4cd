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


def axes_of(ctx: LoweringContext, input: Value, dim: Dims) -> tuple[int, ...]:
    """The axes as non-negative numbers in order; none for all of them. A tensor without axes has no others to name."""
    if ctx.shape(input) == ():
        return ()
    dims = () if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    axes = sorted({ctx.axis(input, axis) for axis in dims})
    shape = ctx.shape(input)
    return () if shape is not None and len(axes) == len(shape) else tuple(axes)


def vector(ctx: LoweringContext, input: Value) -> Value:
    """A tensor without axes as one of one element, for what torch computes along an axis that is not there."""
    return ctx.reshape(input, (1,), what="vector") if ctx.shape(input) == () else input


def _cast_to(ctx: LoweringContext, input: Value, dtype: torch.dtype | None) -> Value:
    """The operand in the type that a reduction is asked to compute in."""
    return input if dtype is None else ctx.cast(input, ctx.ir_dtype(dtype), what="x_cast")


@lower_function(torch.mean)
def mean(
    ctx: LoweringContext, input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    return ctx.emit("mean", _cast_to(ctx, input, dtype), axes=axes_of(ctx, input, dim), keepdims=keepdim)


@lower_function(torch.sum)
def sum_(
    ctx: LoweringContext, input: Value, dim: Dims = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Value:
    if dtype is None and not input.type.dtype.is_float:
        dtype = torch.int64
    return ctx.emit("sum", _cast_to(ctx, input, dtype), axes=axes_of(ctx, input, dim), keepdims=keepdim)


@lower_function(torch.count_nonzero)
def count_nonzero(ctx: LoweringContext, input: Value, dim: Dims = None) -> Value:
    truth = ctx.cast(elementwise.truth(ctx, input), DType.INT64, what="counted")
    return ctx.emit("sum", truth, axes=axes_of(ctx, input, dim), keepdims=False)


def _quantifier(op: str, function: Callable[..., Any]) -> None:
    """`any` and `all` are the largest and the smallest of truths written as 0 and 1."""

    def lower(ctx: LoweringContext, input: Value, dim: Dims = None, keepdim: bool = False) -> Value:
        number = ctx.cast(elementwise.truth(ctx, input), DType.INT32, what="number")
        found = ctx.emit(op, number, what="found", axes=axes_of(ctx, input, dim), keepdims=keepdim)
        return ctx.emit("cast", found, dtype=DType.BOOL)

    lower_function(function)(lower)


_quantifier("reduce_max", torch.any)
_quantifier("reduce_min", torch.all)


@lower_function(torch.amax)
def amax(ctx: LoweringContext, input: Value, dim: Dims = (), keepdim: bool = False) -> Value:
    return ctx.emit("reduce_max", input, axes=axes_of(ctx, input, dim), keepdims=keepdim)


@lower_function(torch.amin)
def amin(ctx: LoweringContext, input: Value, dim: Dims = (), keepdim: bool = False) -> Value:
    return ctx.emit("reduce_min", input, axes=axes_of(ctx, input, dim), keepdims=keepdim)


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
        if ctx.shape(input) == ():
            flat = vector(ctx, input)
            index = ctx.emit("argmax", flat, what="index", axis=0)
            return Extremum(ctx.emit("identity", input, what="value"), index)
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
        if dim is None or ctx.shape(input) == ():
            flat = ctx.reshape(input, (-1,), what="flat")
            if not keepdim or ctx.shape(input) == ():
                return ctx.emit(op, flat, axis=0, keepdims=False)
            return ctx.reshape(ctx.emit(op, flat, what="index", axis=0), (1,) * ctx.rank(input))
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
        x = as_float(ctx, input) if dtype is None else _cast_to(ctx, input, dtype)
        if ctx.shape(input) == ():
            return ctx.reshape(ctx.emit(op, vector(ctx, x), what="of_vector", axis=0), ())
        return ctx.emit(op, x, axis=ctx.axis(input, dim))

    def lower_of_module(ctx: LoweringContext, module: Any, input: Value) -> Value:
        return lower(ctx, input, module.dim)

    lower_function(*functions)(lower)
    lower_module(cls)(lower_of_module)


_softmax("softmax", nn.Softmax, torch.softmax, F.softmax)
_softmax("log_softmax", nn.LogSoftmax, torch.log_softmax, F.log_softmax)


@lower_module(nn.Softmin)
def softmin_module(ctx: LoweringContext, module: nn.Softmin, input: Value) -> Value:
    return softmin(ctx, input, module.dim)


@lower_function(F.softmin)
def softmin(
    ctx: LoweringContext, input: Value, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Value:
    if dim is None:
        raise ctx.error("softmin without dim is ambiguous; say along which dimension")
    x = ctx.emit("neg", as_float(ctx, _cast_to(ctx, input, dtype)), what="negative")
    if ctx.shape(input) == ():
        return ctx.reshape(ctx.emit("softmax", vector(ctx, x), what="of_vector", axis=0), ())
    return ctx.emit("softmax", x, axis=ctx.axis(input, dim))


@lower_module(nn.Softmax2d)
def softmax2d(ctx: LoweringContext, module: nn.Softmax2d, input: Value) -> Value:
    return ctx.emit("softmax", input, axis=ctx.axis(input, -3))
