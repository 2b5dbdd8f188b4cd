"""Convolution, transposed convolution, linear."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext, Operand
from hqc.frontend.fx.lowerings._arguments import batched, single
from hqc.frontend.fx.lowerings.resizing import emit_pad
from hqc.frontend.fx.registry import lower_function, lower_module
from hqc.ir import QuantParams, Value


def emit_conv(
    ctx: LoweringContext,
    input: Value,
    weight: Operand,
    bias: Operand | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    *,
    axes: int = 2,
    residual: Value | None = None,
    activation: str = "none",
    half_step: bool = False,
    quant: QuantParams | None = None,
) -> Value:
    """A conv2d node with torch's arguments, of images (`axes` 2) or rows (1), which the IR has as images of height 1; of volumes (3) a
    conv3d node.

    `residual` and `activation` as fusion makes them, `half_step` as planned.
    """
    fused = _fused(axes, residual, activation, half_step)

    def convolve(images: Value, what: str | None) -> Value:
        if what is not None and residual is not None:
            raise ctx.cannot("an image without a batch has a residual")
        pads = _pads(ctx, weight, padding, _sizes(dilation, axes, 1), axes)
        if padding_mode != "zeros" and any(pads):
            half = len(pads) // 2
            before, after = pads[:half][-axes:], pads[half:][-axes:]
            images = emit_pad(ctx, images, (0, 0, *before), (0, 0, *after), padding_mode, what="pad")
            pads = (0,) * len(pads)
        return ctx.emit(
            _op("conv", axes),
            images,
            weight,
            bias,
            *fused.operands,
            what=what,
            stride=_sizes(stride, axes, 1),
            padding=pads,
            dilation=_sizes(dilation, axes, 1),
            groups=groups,
            **fused.attributes,
            quant=quant,
        )

    return batched(ctx, input, axes + 2, convolve)


class _Fused(NamedTuple):
    """What only convolutions that the chips have take from fusion."""

    operands: tuple[Value | None, ...] = ()
    attributes: Mapping[str, Any] = MappingProxyType({})


def _fused(axes: int, residual: Value | None, activation: str, half_step: bool) -> _Fused:
    return _Fused((residual,), {"activation": activation, "half_step": half_step}) if axes < 3 else _Fused()


def _op(base: str, axes: int) -> str:
    return f"{base}{max(axes, 2)}d"


def _sizes(value: Any, axes: int, of_rows: int) -> tuple[int, ...]:
    """(height, width) of torch's argument, of volumes (depth, height, width); the height of rows is `of_rows`."""
    if axes == 1:
        return of_rows, single(value)
    items = (value,) if isinstance(value, int) else tuple(map(int, value))
    return items * axes if len(items) == 1 else items


def _pads(ctx: LoweringContext, weight: Operand, padding: Any, dilation: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """Top, left, bottom, right; of volumes all begins, then all ends."""
    if padding == "valid":
        return (0, 0) * max(axes, 2)
    if padding == "same":
        assert isinstance(weight, (torch.Tensor, Value))
        taps = [1] * (2 - axes) + [ctx.size(weight, 2 + axis) for axis in range(axes)]
        totals = [apart * (count - 1) for apart, count in zip(dilation, taps, strict=True)]
        return (*(total // 2 for total in totals), *(total - total // 2 for total in totals))
    return _sizes(padding, axes, 0) * 2


@lower_module(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def conv_module(ctx: LoweringContext, module: nn.Conv1d | nn.Conv2d | nn.Conv3d, input: Value) -> Value:
    m = module
    axes = len(m.kernel_size)
    return emit_conv(ctx, input, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups, m.padding_mode, axes=axes)


lower_function(torch.conv1d)(partial(emit_conv, axes=1))
lower_function(torch.conv2d)(emit_conv)
lower_function(torch.conv3d)(partial(emit_conv, axes=3))


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


def emit_conv_transpose(
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
    axes: int = 2,
    residual: Value | None = None,
    activation: str = "none",
    half_step: bool = False,
    quant: QuantParams | None = None,
) -> Value:
    """A conv_transpose2d or conv_transpose3d node with torch's arguments; `axes` and what fusion adds as for `emit_conv`."""
    fused = _fused(axes, residual, activation, half_step)

    def convolve(images: Value, what: str | None) -> Value:
        return ctx.emit(
            _op("conv_transpose", axes),
            images,
            weight,
            bias,
            *fused.operands,
            what=what,
            stride=_sizes(stride, axes, 1),
            padding=_sizes(padding, axes, 0) * 2,
            output_padding=_sizes(output_padding, axes, 0),
            dilation=_sizes(dilation, axes, 1),
            groups=groups,
            **fused.attributes,
            quant=quant,
        )

    return batched(ctx, input, axes + 2, convolve)


@lower_module(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def conv_transpose_module(
    ctx: LoweringContext,
    module: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d,
    input: Value,
    output_size: Any = None,
) -> Value:
    m, axes = module, len(module.kernel_size)
    extra = m.output_padding if output_size is None else output_padding_for(ctx, m, input, output_size)
    return emit_conv_transpose(ctx, input, m.weight, m.bias, m.stride, m.padding, extra, m.groups, m.dilation, axes=axes)


lower_function(torch.conv_transpose1d)(partial(emit_conv_transpose, axes=1))
lower_function(torch.conv_transpose2d)(emit_conv_transpose)
lower_function(torch.conv_transpose3d)(partial(emit_conv_transpose, axes=3))


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
