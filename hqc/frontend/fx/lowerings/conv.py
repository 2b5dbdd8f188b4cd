"""Convolution, transposed convolution, linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext, Operand
from hqc.frontend.fx.lowerings._arguments import pair, require_images
from hqc.frontend.fx.registry import lower_function, lower_module
from hqc.ir import QuantParams, Value

_PAD_MODES = {"reflect": "reflect", "replicate": "edge"}


def emit_conv2d(
    ctx: LoweringContext,
    x: Value,
    weight: Operand,
    bias: Operand | None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    residual: Value | None = None,
    activation: str = "none",
    quant: QuantParams | None = None,
) -> Value:
    """A conv2d node with torch's arguments; `residual` and `activation` as fusion makes them."""
    require_images(ctx, x)
    pads = _pads(ctx, weight, padding, pair(dilation), pair(stride))
    if padding_mode != "zeros" and any(pads):
        if padding_mode not in _PAD_MODES:
            raise ctx.cannot(f"padding_mode={padding_mode!r}")
        top, left, bottom, right = pads
        x = ctx.emit("pad", x, what="pad", pads=(0, 0, top, left, 0, 0, bottom, right), mode=_PAD_MODES[padding_mode])
        pads = (0, 0, 0, 0)
    return ctx.emit(
        "conv2d",
        x,
        weight,
        bias,
        residual,
        stride=pair(stride),
        padding=pads,
        dilation=pair(dilation),
        groups=groups,
        activation=activation,
        quant=quant,
    )


def _pads(
    ctx: LoweringContext, weight: Operand, padding: Any, dilation: tuple[int, int], stride: tuple[int, int]
) -> tuple[int, int, int, int]:
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        assert isinstance(weight, (torch.Tensor, Value))
        totals = [dilation[i] * (ctx.size(weight, 2 + i) - 1) for i in range(2)]
        return totals[0] // 2, totals[1] // 2, totals[0] - totals[0] // 2, totals[1] - totals[1] // 2
    height, width = pair(padding)
    return height, width, height, width


@lower_module(nn.Conv2d)
def conv2d_module(ctx: LoweringContext, module: nn.Conv2d, input: Value) -> Value:
    return emit_conv2d(
        ctx,
        input,
        module.weight,
        module.bias,
        module.stride,
        module.padding,
        module.dilation,
        module.groups,
        module.padding_mode,
    )


@lower_function(torch.conv2d)
def conv2d(
    ctx: LoweringContext,
    input: Value,
    weight: Operand,
    bias: Operand | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    return emit_conv2d(ctx, input, weight, bias, stride, padding, dilation, groups)


@lower_module(nn.ConvTranspose2d)
def conv_transpose2d_module(ctx: LoweringContext, module: nn.ConvTranspose2d, input: Value, output_size: Any = None) -> Value:
    if output_size is not None:
        raise ctx.cannot("output_size is given")
    return emit_conv_transpose2d(
        ctx,
        input,
        module.weight,
        module.bias,
        module.stride,
        module.padding,
        module.output_padding,
        module.groups,
        module.dilation,
    )


@lower_function(torch.conv_transpose2d)
def emit_conv_transpose2d(
    ctx: LoweringContext,
    input: Value,
    weight: Operand,
    bias: Operand | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    residual: Value | None = None,
    activation: str = "none",
    quant: QuantParams | None = None,
) -> Value:
    """A conv_transpose2d node with torch's arguments."""
    require_images(ctx, input)
    return ctx.emit(
        "conv_transpose2d",
        input,
        weight,
        bias,
        residual,
        stride=pair(stride),
        padding=pair(padding) * 2,
        output_padding=pair(output_padding),
        dilation=pair(dilation),
        groups=groups,
        activation=activation,
        quant=quant,
    )


@lower_module(nn.Linear)
def linear_module(ctx: LoweringContext, module: nn.Linear, input: Value) -> Value:
    return ctx.emit("linear", input, module.weight, module.bias)


@lower_function(F.linear)
def linear(ctx: LoweringContext, input: Value, weight: Operand, bias: Operand | None = None) -> Value:
    return ctx.emit("linear", input, weight, bias)
