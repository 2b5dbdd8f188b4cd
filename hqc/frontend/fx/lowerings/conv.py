"""Convolution, transposed convolution, linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext, Operand
from hqc.frontend.fx.lowerings._arguments import batched, pair, single
from hqc.frontend.fx.lowerings.resizing import emit_pad
from hqc.frontend.fx.registry import lower_function, lower_module
from hqc.ir import QuantParams, Value


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
    half_step: bool = False,
    quant: QuantParams | None = None,
) -> Value:
    """A conv2d node with torch's arguments; `residual` and `activation` as fusion makes them, `half_step` as planned."""
    shape = ctx.shape(x)
    if shape is not None and len(shape) == 3:
        if residual is not None:
            raise ctx.cannot("an image without a batch has a residual")

        def convolve(image: Value, what: str | None) -> Value:
            return _conv2d(ctx, image, weight, bias, stride, padding, dilation, groups, padding_mode, activation, what=what)

        return batched(ctx, x, 4, convolve)
    return _conv2d(
        ctx,
        x,
        weight,
        bias,
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
        activation,
        residual=residual,
        half_step=half_step,
        quant=quant,
    )


def _conv2d(
    ctx: LoweringContext,
    x: Value,
    weight: Operand,
    bias: Operand | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    padding_mode: str,
    activation: str,
    *,
    residual: Value | None = None,
    half_step: bool = False,
    quant: QuantParams | None = None,
    what: str | None = None,
) -> Value:
    pads = _pads(ctx, weight, padding, pair(dilation), pair(stride))
    if padding_mode != "zeros" and any(pads):
        top, left, bottom, right = pads
        x = emit_pad(ctx, x, (0, 0, top, left), (0, 0, bottom, right), padding_mode, what="pad")
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
        half_step=half_step,
        quant=quant,
        what=what,
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


@lower_module(nn.Conv1d)
def conv1d_module(ctx: LoweringContext, module: nn.Conv1d, input: Value) -> Value:
    m = module
    return emit_conv1d(ctx, input, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups, m.padding_mode)


@lower_function(torch.conv1d)
def conv1d(
    ctx: LoweringContext,
    input: Value,
    weight: Operand,
    bias: Operand | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    return emit_conv1d(ctx, input, weight, bias, stride, padding, dilation, groups)


def emit_conv1d(
    ctx: LoweringContext,
    x: Value,
    weight: Operand,
    bias: Operand | None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    **fused: Any,
) -> Value:
    """A convolution of rows, which the IR has as one of images of height 1."""

    def convolve(rows: Value, what: str | None) -> Value:
        before, after = _row_pads(ctx, weight, padding, single(dilation))
        if padding_mode != "zeros" and (before or after):
            rows = emit_pad(ctx, rows, (0, 0, before), (0, 0, after), padding_mode, what="pad")
            before = after = 0
        return ctx.emit(
            "conv2d",
            rows,
            weight,
            bias,
            fused.get("residual"),
            what=what,
            stride=(1, single(stride)),
            padding=(0, before, 0, after),
            dilation=(1, single(dilation)),
            groups=groups,
            activation=fused.get("activation", "none"),
            half_step=fused.get("half_step", False),
            quant=fused.get("quant"),
        )

    return batched(ctx, x, 3, convolve)


def _row_pads(ctx: LoweringContext, weight: Operand, padding: Any, dilation: int) -> tuple[int, int]:
    if padding == "valid":
        return 0, 0
    if padding == "same":
        assert isinstance(weight, (torch.Tensor, Value))
        total = dilation * (ctx.size(weight, 2) - 1)
        return total // 2, total - total // 2
    return single(padding), single(padding)


@lower_module(nn.ConvTranspose2d)
def conv_transpose2d_module(ctx: LoweringContext, module: nn.ConvTranspose2d, input: Value, output_size: Any = None) -> Value:
    m = module
    extra = m.output_padding
    if output_size is not None:
        extra = output_padding_for(ctx, m, input, output_size)
    return emit_conv_transpose2d(ctx, input, m.weight, m.bias, m.stride, m.padding, extra, m.groups, m.dilation)


def output_padding_for(ctx: LoweringContext, module: Any, input: Value, output_size: Any) -> tuple[int, ...]:
    """The padding of the result that gives it the size that the call asks for; the module's own until sizes are known."""
    axes, shape = len(module.kernel_size), ctx.shape(input)
    asked = list(output_size) if isinstance(output_size, (tuple, list)) else [output_size]
    if shape is None or None in shape[-axes:] or not all(isinstance(size, int) for size in asked[-axes:]):
        own: tuple[int, ...] = tuple(module.output_padding)
        return own
    given = [int(size) for size in asked]
    given = given[len(given) - axes :]
    extra = []
    for i in range(axes):
        reach = module.dilation[i] * (module.kernel_size[i] - 1) + 1
        least = (ctx.size(input, i - axes) - 1) * module.stride[i] - 2 * module.padding[i] + reach
        extra.append(given[i] - least)
        if not 0 <= extra[-1] < max(module.stride[i], module.dilation[i]):
            most = least + max(module.stride[i], module.dilation[i]) - 1
            raise ctx.error(f"output_size {given} is not possible: size {i} may be {least} to {most}")
    return tuple(extra)


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
    half_step: bool = False,
    quant: QuantParams | None = None,
) -> Value:
    """A conv_transpose2d node with torch's arguments."""

    def convolve(image: Value, what: str | None) -> Value:
        return ctx.emit(
            "conv_transpose2d",
            image,
            weight,
            bias,
            residual,
            what=what,
            stride=pair(stride),
            padding=pair(padding) * 2,
            output_padding=pair(output_padding),
            dilation=pair(dilation),
            groups=groups,
            activation=activation,
            half_step=half_step,
            quant=quant,
        )

    return batched(ctx, input, 4, convolve)


@lower_module(nn.ConvTranspose1d)
def conv_transpose1d_module(ctx: LoweringContext, module: nn.ConvTranspose1d, input: Value, output_size: Any = None) -> Value:
    m = module
    extra = m.output_padding
    if output_size is not None:
        extra = output_padding_for(ctx, m, input, output_size)
    return conv_transpose1d(ctx, input, m.weight, m.bias, m.stride, m.padding, extra, m.groups, m.dilation)


@lower_function(torch.conv_transpose1d)
def conv_transpose1d(
    ctx: LoweringContext,
    input: Value,
    weight: Operand,
    bias: Operand | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Value:
    """A transposed convolution of rows, which the IR has as one of images of height 1."""

    def convolve(rows: Value, what: str | None) -> Value:
        return ctx.emit(
            "conv_transpose2d",
            rows,
            weight,
            bias,
            what=what,
            stride=(1, single(stride)),
            padding=(0, single(padding)) * 2,
            output_padding=(0, single(output_padding)),
            dilation=(1, single(dilation)),
            groups=groups,
        )

    return batched(ctx, input, 3, convolve)


@lower_module(nn.Linear)
def linear_module(ctx: LoweringContext, module: nn.Linear, input: Value) -> Value:
    return ctx.emit("linear", input, module.weight, module.bias)


@lower_function(F.linear)
def linear(ctx: LoweringContext, input: Value, weight: Operand, bias: Operand | None = None) -> Value:
    """A weight of rank 1 is a matrix of one row, whose output feature has no axis."""
    if isinstance(weight, torch.Tensor) and weight.ndim == 1:
        row = ctx.derived(weight, weight.unsqueeze(0), "row")
        offset = ctx.derived(bias, bias.reshape(1), "row") if isinstance(bias, torch.Tensor) else bias
        product = ctx.emit("linear", input, row, offset, what="product")
        return ctx.reshape(product, list(ctx.sizes(product))[:-1])
    return ctx.emit("linear", input, weight, bias)
