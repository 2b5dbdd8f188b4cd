"""Interpolation and padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext
from hqc.frontend.fx.lowerings import pooling
from hqc.frontend.fx.lowerings._arguments import as_images, pair, single
from hqc.frontend.fx.registry import lower_function, lower_module
from hqc.frontend.fx.shapes import UnknownSize
from hqc.ir import Value

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


@lower_module(nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d)
def upsample_module(ctx: LoweringContext, m: nn.Upsample, input: Value) -> Value:
    return interpolate(ctx, input, m.size, m.scale_factor, m.mode, m.align_corners, m.recompute_scale_factor)


@lower_function(F.interpolate, F.upsample)
def interpolate(
    ctx: LoweringContext,
    input: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Value:
    shape = ctx.shape(input)
    rank = 4 if shape is None else len(shape)
    if (
        antialias
        or mode not in ("nearest", "area", *{3: ("linear",), 4: ("bilinear", "bicubic")}.get(rank, ()))
        or rank not in (3, 4)
    ):
        raise ctx.cannot(f"mode={mode!r}{' with antialias' if antialias else ''} of rank {rank}")
    if mode == "area":
        return _area(ctx, input, size, scale_factor)
    if rank == 3:
        return _rows(ctx, input, size, scale_factor, mode, align_corners, recompute_scale_factor)
    attributes: dict[str, Any] = {"mode": mode, "align_corners": bool(align_corners)}
    if size is not None:
        sizes = (size, size) if isinstance(size, (int, UnknownSize)) else tuple(size)
        if not any(isinstance(item, UnknownSize) for item in sizes):
            attributes["size"] = pair(sizes)
        return ctx.emit("resize2d", input, **attributes)
    factors = (scale_factor, scale_factor) if isinstance(scale_factor, (int, float)) else tuple(scale_factor)
    if len(factors) == 1:
        factors *= 2
    if recompute_scale_factor and any(not float(factor).is_integer() for factor in factors):
        attributes["size"] = tuple(math.floor(ctx.size(input, 2 + i) * factor) for i, factor in enumerate(factors))
    else:
        attributes["scale_factor"] = tuple(float(factor) for factor in factors)
    return ctx.emit("resize2d", input, **attributes)


def _area(ctx: LoweringContext, input: Value, size: Any, scale_factor: Any) -> Value:
    """Means of equal parts: adaptive average pooling."""
    axes = ctx.rank(input) - 2
    if size is None:
        factors = (scale_factor,) * axes if isinstance(scale_factor, (int, float)) else tuple(scale_factor)
        size = tuple(math.floor(ctx.size(input, 2 + i) * factor) for i, factor in enumerate(factors))
    return (pooling.adaptive_avg_pool1d if axes == 1 else pooling.adaptive_avg_pool2d)(ctx, input, size)


def _rows(
    ctx: LoweringContext, input: Value, size: Any, scale_factor: Any, mode: str, align: bool | None, recompute: bool | None
) -> Value:
    """`[N,C,L]` as images of height 1."""
    attributes: dict[str, Any] = {"mode": "bilinear" if mode == "linear" else mode, "align_corners": bool(align)}
    if size is not None:
        attributes["size"] = (1, single(size))
    else:
        factor = float(scale_factor if isinstance(scale_factor, (int, float)) else next(iter(scale_factor)))
        if recompute and not factor.is_integer():
            attributes["size"] = (1, math.floor(ctx.size(input, -1) * factor))
        else:
            attributes["scale_factor"] = (1.0, factor)
    return as_images(ctx, input, lambda x, what: ctx.emit("resize2d", x, what=what, **attributes))


# --- padding -------------------------------------------------------------------------------------------------------------


def _pad_module(mode: str, *classes: type[nn.Module]) -> None:
    def lower(ctx: LoweringContext, module: Any, input: Value) -> Value:
        return pad(ctx, input, module.padding, mode, getattr(module, "value", None))

    lower_module(*classes)(lower)


_pad_module("constant", nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
_pad_module("reflect", nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d)
_pad_module("replicate", nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d)
_pad_module("circular", nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d)


@lower_function(torch.constant_pad_nd)
def constant_pad_nd(ctx: LoweringContext, input: Value, pad: Sequence[int], value: float = 0) -> Value:
    return lower_pad(ctx, input, pad, "constant", value)


@lower_function(F.pad)
def pad(ctx: LoweringContext, input: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    """torch's `pad` counts (before, after) pairs from the last axis; the IR has all begins, then all ends."""
    rank = ctx.rank(input)
    if len(pad) > 2 * rank:
        raise ctx.error(f"pad is given {len(pad)} numbers for a tensor of rank {rank}")
    begins, ends = [0] * rank, [0] * rank
    for i in range(len(pad) // 2):
        begins[rank - 1 - i], ends[rank - 1 - i] = int(pad[2 * i]), int(pad[2 * i + 1])
    return emit_pad(ctx, input, begins, ends, mode, value=value)


lower_pad = pad  # where an argument is called `pad`


def emit_pad(
    ctx: LoweringContext,
    x: Value,
    begins: Sequence[int],
    ends: Sequence[int],
    mode: str,
    *,
    value: float | None = None,
    what: str | None = None,
) -> Value:
    """Pad in any of torch's modes; a negative amount crops."""
    if mode != "constant" and any(amount < 0 for amount in (*begins, *ends)):
        crops = [axis for axis in range(len(begins)) if begins[axis] < 0 or ends[axis] < 0]
        starts = [max(-begins[axis], 0) for axis in crops]
        stops = [ctx.size(x, axis) + min(ends[axis], 0) for axis in crops]
        begins, ends = ([max(amount, 0) for amount in amounts] for amounts in (begins, ends))
        if mode == "replicate" and any(start >= stop for start, stop in zip(starts, stops, strict=True)):
            raise ctx.cannot("the crop leaves nothing to repeat")
        last = not any(begins) and not any(ends)
        x = ctx.emit("slice", x, what=what if last else "crop", axes=crops, starts=starts, ends=stops)
        if last:
            return x
    if mode == "circular":
        return _wrap_around(ctx, x, begins, ends, what)
    if mode not in _PAD_MODES:
        raise ctx.cannot(f"mode={mode!r}")
    return ctx.emit("pad", x, what=what, pads=(*begins, *ends), mode=_PAD_MODES[mode], value=float(value or 0.0))


def _wrap_around(ctx: LoweringContext, x: Value, begins: Sequence[int], ends: Sequence[int], what: str | None) -> Value:
    """Per axis: the last elements, all of them, the first elements."""
    axes = [axis for axis in range(len(begins)) if begins[axis] or ends[axis]]
    if not axes:
        return ctx.emit("identity", x, what=what)
    for axis in axes:
        size = ctx.size(x, axis)
        parts = [x]
        if begins[axis]:
            head = ctx.emit("slice", x, what=f"before{axis}", axes=(axis,), starts=(size - begins[axis],), ends=(size,))
            parts.insert(0, head)
        if ends[axis]:
            parts.append(ctx.emit("slice", x, what=f"after{axis}", axes=(axis,), starts=(0,), ends=(ends[axis],)))
        x = ctx.emit("cat", *parts, what=what if axis == axes[-1] else f"wrapped{axis}", axis=axis)
    return x
