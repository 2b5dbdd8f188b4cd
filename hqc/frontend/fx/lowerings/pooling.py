"""Pooling: 2-D as it is, 1-D as 2-D with a height of 1. 3-D pools and indices of maxima are left to torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext
from hqc.frontend.fx.lowerings._arguments import as_images, batched, pair, single
from hqc.frontend.fx.registry import lower_function, lower_module
from hqc.ir import Value


def _no_indices(ctx: LoweringContext, return_indices: bool) -> None:
    if return_indices:
        raise ctx.cannot("it returns the indices of the maxima")


# --- maximum -----------------------------------------------------------------------------------------------------------


@lower_module(nn.MaxPool2d)
def max_pool2d_module(ctx: LoweringContext, m: nn.MaxPool2d, input: Value) -> Value:
    return max_pool2d(ctx, input, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices)


@lower_function(torch.max_pool2d, F.max_pool2d)
def max_pool2d(
    ctx: LoweringContext,
    input: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    _no_indices(ctx, return_indices)

    def pool(x: Value, what: str | None) -> Value:
        return ctx.emit(
            "max_pool2d",
            x,
            what=what,
            kernel=pair(kernel_size),
            stride=pair(stride or kernel_size),
            padding=pair(padding) * 2,
            dilation=pair(dilation),
            ceil_mode=ceil_mode,
        )

    return batched(ctx, input, 4, pool)


@lower_module(nn.MaxPool1d)
def max_pool1d_module(ctx: LoweringContext, m: nn.MaxPool1d, input: Value) -> Value:
    return max_pool1d(ctx, input, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices)


@lower_function(torch.max_pool1d, F.max_pool1d)
def max_pool1d(
    ctx: LoweringContext,
    input: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    _no_indices(ctx, return_indices)

    def pool(x: Value, what: str | None) -> Value:
        return ctx.emit(
            "max_pool2d",
            x,
            what=what,
            kernel=(1, single(kernel_size)),
            stride=(1, single(stride or kernel_size)),
            padding=(0, single(padding)) * 2,
            dilation=(1, single(dilation)),
            ceil_mode=ceil_mode,
        )

    return as_images(ctx, input, pool)


@lower_function(F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices)
@lower_function(F.adaptive_max_pool1d_with_indices, F.adaptive_max_pool2d_with_indices, F.adaptive_max_pool3d_with_indices)
def max_pool_with_indices(ctx: LoweringContext, input: Value, *args: Any, **kwargs: Any) -> Value:
    raise ctx.cannot("it returns the indices of the maxima")


# --- average -----------------------------------------------------------------------------------------------------------


@lower_module(nn.AvgPool2d)
def avg_pool2d_module(ctx: LoweringContext, m: nn.AvgPool2d, input: Value) -> Value:
    return avg_pool2d(ctx, input, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, m.divisor_override)


@lower_function(F.avg_pool2d)
def avg_pool2d(
    ctx: LoweringContext,
    input: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    kernel = pair(kernel_size)
    if divisor_override is not None and divisor_override != kernel[0] * kernel[1]:
        raise ctx.cannot(f"divisor_override={divisor_override}")

    def pool(x: Value, what: str | None) -> Value:
        return ctx.emit(
            "avg_pool2d",
            x,
            what=what,
            kernel=kernel,
            stride=pair(stride or kernel_size),
            padding=pair(padding) * 2,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        )

    return batched(ctx, input, 4, pool)


@lower_module(nn.AvgPool1d)
def avg_pool1d_module(ctx: LoweringContext, m: nn.AvgPool1d, input: Value) -> Value:
    return avg_pool1d(ctx, input, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad)


@lower_function(F.avg_pool1d)
def avg_pool1d(
    ctx: LoweringContext,
    input: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Value:
    def pool(x: Value, what: str | None) -> Value:
        return ctx.emit(
            "avg_pool2d",
            x,
            what=what,
            kernel=(1, single(kernel_size)),
            stride=(1, single(stride or kernel_size)),
            padding=(0, single(padding)) * 2,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        )

    return as_images(ctx, input, pool)


# --- adaptive ----------------------------------------------------------------------------------------------------------


def _adaptive(op: str, images: Any, rows: Any, images_cls: Any, rows_cls: Any) -> tuple[Callable[..., Value], ...]:
    """The 2-D and the 1-D form of one adaptive pool, by functions and module classes; returns both lowerings."""

    def of_images(ctx: LoweringContext, input: Value, output_size: Any, return_indices: bool = False) -> Value:
        _no_indices(ctx, return_indices)
        size = _output_size(ctx, input, output_size)
        return batched(ctx, input, 4, lambda x, what: ctx.emit(op, x, what=what, output_size=size))

    def of_rows(ctx: LoweringContext, input: Value, output_size: Any, return_indices: bool = False) -> Value:
        _no_indices(ctx, return_indices)
        length = output_size if isinstance(output_size, int) or output_size is None else next(iter(output_size))
        size = (1, ctx.size(input, -1) if length is None else int(length))
        return as_images(ctx, input, lambda x, what: ctx.emit(op, x, what=what, output_size=size))

    def of_module(lower: Callable[..., Value]) -> Callable[..., Value]:
        return lambda ctx, module, input: lower(ctx, input, module.output_size, getattr(module, "return_indices", False))

    lower_function(images)(of_images)
    lower_function(rows)(of_rows)
    lower_module(images_cls)(of_module(of_images))
    lower_module(rows_cls)(of_module(of_rows))
    return of_images, of_rows


adaptive_avg_pool2d, adaptive_avg_pool1d = _adaptive(
    "adaptive_avg_pool2d", F.adaptive_avg_pool2d, F.adaptive_avg_pool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool1d
)
_adaptive("adaptive_max_pool2d", F.adaptive_max_pool2d, F.adaptive_max_pool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool1d)


def _output_size(ctx: LoweringContext, input: Value, output_size: Any) -> tuple[int, int]:
    sizes = (output_size, output_size) if isinstance(output_size, int) or output_size is None else tuple(output_size)
    if len(sizes) == 1:
        sizes = sizes * 2
    height, width = (ctx.size(input, i - 2) if size is None else int(size) for i, size in enumerate(sizes))
    return height, width
