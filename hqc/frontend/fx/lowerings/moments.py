"""Norms and variances, and what is built from them, in the steps that exporters write them in."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext
from hqc.frontend.fx.lowerings.reduction import Dims, axes_of
from hqc.frontend.fx.registry import lower_function, lower_method
from hqc.ir import Value

_NORMS = {1.0: "reduce_l1", 2.0: "reduce_l2"}


@lower_function(torch.linalg.vector_norm)
def vector_norm(
    ctx: LoweringContext,
    x: Value,
    ord: float = 2,
    dim: Dims = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> Value:
    return _norm(ctx, x, ord, dim, keepdim, dtype)


@lower_function(torch.norm)
@lower_method("norm")
def norm(
    ctx: LoweringContext,
    input: Value,
    p: float | str | None = "fro",
    dim: Dims = None,
    keepdim: bool = False,
    out: None = None,
    dtype: torch.dtype | None = None,
) -> Value:
    if p == "nuc":
        raise ctx.cannot("the nuclear norm needs singular values")
    return _norm(ctx, input, 2.0 if p in ("fro", None) else p, dim, keepdim, dtype)


def _norm(ctx: LoweringContext, x: Value, order: Any, dim: Dims, keepdim: bool, dtype: torch.dtype | None) -> Value:
    op = _NORMS.get(order) if isinstance(order, (int, float)) else None
    if op is None or dtype is not None or not x.type.dtype.is_float:
        raise ctx.cannot(f"the IR has the norms of order 1 and 2, not {order}" if op is None else "the norm changes its type")
    return ctx.emit(op, x, axes=axes_of(ctx, x, dim), keepdims=keepdim)


@lower_function(F.normalize)
def normalize(ctx: LoweringContext, input: Value, p: float = 2.0, dim: Dims = 1, eps: float = 1e-12, out: None = None) -> Value:
    if p not in _NORMS or not input.type.dtype.is_float:
        raise ctx.cannot(f"the IR has the norms of order 1 and 2, not {p}")
    axes = axes_of(ctx, input, dim) or tuple(range(ctx.rank(input)))
    return ctx.emit("lp_normalize", input, axes=axes, p=int(p), eps=float(eps))


@lower_function(torch.logsumexp)
def logsumexp(ctx: LoweringContext, input: Value, dim: Dims, keepdim: bool = False) -> Value:
    if not input.type.dtype.is_float:
        raise ctx.cannot("it is a logarithm of integers")
    return ctx.emit("reduce_log_sum_exp", input, axes=axes_of(ctx, input, dim), keepdims=keepdim)


@lower_function(torch.var)
def var(
    ctx: LoweringContext,
    input: Value,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Value:
    return _variance(ctx, input, dim, unbiased, keepdim, correction, None)


@lower_function(torch.std)
def std(
    ctx: LoweringContext,
    input: Value,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Value:
    return ctx.emit("sqrt", _variance(ctx, input, dim, unbiased, keepdim, correction, "variance"))


def _variance(
    ctx: LoweringContext,
    x: Value,
    dim: Any,
    unbiased: bool | None,
    keepdim: bool,
    correction: float | None,
    what: str | None,
) -> Value:
    """The mean of squared distances from the mean, times `n / (n - correction)`."""
    if isinstance(dim, bool):  # x.var(False)
        dim, unbiased = None, dim
    if not x.type.dtype.is_float:
        raise ctx.cannot("only numbers of floating point have a variance")
    less = correction if correction is not None else 1.0 if unbiased is None else float(unbiased)
    axes = axes_of(ctx, x, dim)
    count = math.prod(ctx.size(x, axis) for axis in axes or range(ctx.rank(x))) if less else 1
    if less and count <= less:
        raise ctx.cannot(f"the variance of {count} numbers less {less:g} is not defined")
    mean = ctx.emit("mean", x, what="mean", axes=axes, keepdims=True)
    distance = ctx.emit("sub", x, mean, what="distance")
    square = ctx.emit("mul", distance, distance, what="square")
    spread = ctx.emit("mean", square, what="spread" if less else what, axes=axes, keepdims=keepdim)
    return ctx.emit("mul", spread, ctx.scalar(count / (count - less), x.type.dtype), what=what) if less else spread
