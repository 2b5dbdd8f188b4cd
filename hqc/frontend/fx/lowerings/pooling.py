"""Pooling: 2-D as it is, 1-D as 2-D with a height of 1. 3-D pools and indices of maxima are left to torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


# --- of images and of rows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Axes:
    """How a pool over `axes` axes reads torch's arguments; one over rows is one over images of height 1."""

    axes: int

    def window(self, given: Any, along_height: int = 1) -> tuple[int, int]:
        """A kernel, stride, padding or dilation as (height, width); of rows, `along_height` is what leaves the height alone."""
        return pair(given) if self.axes == 2 else (along_height, single(given))

    def pooled(self, ctx: LoweringContext, input: Value, pool: Callable[[Value, str | None], Value]) -> Value:
        """`pool` on images."""
        return batched(ctx, input, 4, pool) if self.axes == 2 else as_images(ctx, input, pool)


_IMAGES, _ROWS = _Axes(2), _Axes(1)


# --- maximum -----------------------------------------------------------------------------------------------------------


def _maximum(axes: _Axes, module_cls: Any, *functions: Any) -> None:
    """The lowerings of a max pool: the functions, and the module that calls them."""

    def of_function(
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
        attributes: dict[str, Any] = {
            "kernel": axes.window(kernel_size),
            "stride": axes.window(stride or kernel_size),
            "padding": axes.window(padding, 0) * 2,
            "dilation": axes.window(dilation),
            "ceil_mode": ceil_mode,
        }
        return axes.pooled(ctx, input, lambda x, what: ctx.emit("max_pool2d", x, what=what, **attributes))

    def of_module(ctx: LoweringContext, m: Any, input: Value) -> Value:
        return of_function(ctx, input, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices)

    lower_function(*functions)(of_function)
    lower_module(module_cls)(of_module)


_maximum(_IMAGES, nn.MaxPool2d, torch.max_pool2d, F.max_pool2d)
_maximum(_ROWS, nn.MaxPool1d, torch.max_pool1d, F.max_pool1d)


@lower_function(F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices)
@lower_function(F.adaptive_max_pool1d_with_indices, F.adaptive_max_pool2d_with_indices, F.adaptive_max_pool3d_with_indices)
def max_pool_with_indices(ctx: LoweringContext, input: Value, *args: Any, **kwargs: Any) -> Value:
    raise ctx.cannot("it returns the indices of the maxima")


# --- average -----------------------------------------------------------------------------------------------------------


def _average(axes: _Axes, module_cls: Any, *functions: Any) -> None:
    """The lowerings of an average pool: the functions, and the module that calls them."""

    def of_function(
        ctx: LoweringContext,
        input: Value,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Value:
        kernel = axes.window(kernel_size)
        if divisor_override is not None and divisor_override != kernel[0] * kernel[1]:
            raise ctx.cannot(f"divisor_override={divisor_override}")
        attributes: dict[str, Any] = {
            "kernel": kernel,
            "stride": axes.window(stride or kernel_size),
            "padding": axes.window(padding, 0) * 2,
            "ceil_mode": ceil_mode,
            "count_include_pad": count_include_pad,
        }
        return axes.pooled(ctx, input, lambda x, what: ctx.emit("avg_pool2d", x, what=what, **attributes))

    def of_module(ctx: LoweringContext, m: Any, input: Value) -> Value:
        divisor = getattr(m, "divisor_override", None)
        return of_function(ctx, input, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, divisor)

    lower_function(*functions)(of_function)
    lower_module(module_cls)(of_module)


_average(_IMAGES, nn.AvgPool2d, F.avg_pool2d)
_average(_ROWS, nn.AvgPool1d, F.avg_pool1d)


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
