"""2-D pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext
from hqc.frontend.fx.lowerings._arguments import pair, require_images
from hqc.frontend.fx.registry import lower_function, lower_module
from hqc.ir import Value


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
    if return_indices:
        raise ctx.error("max pooling with return_indices=True is not supported; the BPU gives no indices")
    require_images(ctx, input)
    return ctx.emit(
        "max_pool2d",
        input,
        kernel=pair(kernel_size),
        stride=pair(stride or kernel_size),
        padding=pair(padding) * 2,
        dilation=pair(dilation),
        ceil_mode=ceil_mode,
    )


@lower_function(F.max_pool2d_with_indices, F.adaptive_max_pool2d_with_indices)
def max_pool2d_with_indices(ctx: LoweringContext, input: Value, *args: Any, **kwargs: Any) -> Value:
    raise ctx.error("max pooling with return_indices=True is not supported; the BPU gives no indices")


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
    require_images(ctx, input)
    kernel = pair(kernel_size)
    if divisor_override is not None and divisor_override != kernel[0] * kernel[1]:
        raise ctx.cannot(f"divisor_override={divisor_override}")
    return ctx.emit(
        "avg_pool2d",
        input,
        kernel=kernel,
        stride=pair(stride or kernel_size),
        padding=pair(padding) * 2,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
    )


@lower_module(nn.AdaptiveAvgPool2d)
def adaptive_avg_pool2d_module(ctx: LoweringContext, module: nn.AdaptiveAvgPool2d, input: Value) -> Value:
    return adaptive_avg_pool2d(ctx, input, module.output_size)


@lower_function(F.adaptive_avg_pool2d)
def adaptive_avg_pool2d(ctx: LoweringContext, input: Value, output_size: Any) -> Value:
    require_images(ctx, input)
    return ctx.emit("adaptive_avg_pool2d", input, output_size=_output_size(ctx, input, output_size))


@lower_module(nn.AdaptiveMaxPool2d)
def adaptive_max_pool2d_module(ctx: LoweringContext, module: nn.AdaptiveMaxPool2d, input: Value) -> Value:
    return adaptive_max_pool2d(ctx, input, module.output_size, module.return_indices)


@lower_function(F.adaptive_max_pool2d)
def adaptive_max_pool2d(ctx: LoweringContext, input: Value, output_size: Any, return_indices: bool = False) -> Value:
    if return_indices:
        return max_pool2d_with_indices(ctx, input)
    require_images(ctx, input)
    return ctx.emit("adaptive_max_pool2d", input, output_size=_output_size(ctx, input, output_size))


def _output_size(ctx: LoweringContext, input: Value, output_size: Any) -> tuple[int, int]:
    sizes = (output_size, output_size) if isinstance(output_size, int) or output_size is None else tuple(output_size)
    if len(sizes) == 1:
        sizes = sizes * 2
    height, width = (ctx.size(input, 2 + i) if size is None else int(size) for i, size in enumerate(sizes))
    return height, width
