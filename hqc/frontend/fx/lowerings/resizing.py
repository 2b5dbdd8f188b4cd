"""Interpolation and padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext
from hqc.frontend.fx.lowerings._arguments import pair
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
    if mode not in ("nearest", "bilinear", "bicubic") or antialias:
        raise ctx.cannot(f"mode={mode!r}{' with antialias' if antialias else ''}")
    if shape is not None and len(shape) != 4:
        raise ctx.cannot(f"the operand has rank {len(shape)}, not 4")
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


@lower_module(nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
def constant_pad_module(ctx: LoweringContext, module: nn.ConstantPad2d, input: Value) -> Value:
    return pad(ctx, input, module.padding, "constant", module.value)


@lower_module(nn.ReflectionPad1d, nn.ReflectionPad2d)
def reflection_pad_module(ctx: LoweringContext, module: nn.ReflectionPad2d, input: Value) -> Value:
    return pad(ctx, input, module.padding, "reflect")


@lower_module(nn.ReplicationPad1d, nn.ReplicationPad2d)
def replication_pad_module(ctx: LoweringContext, module: nn.ReplicationPad2d, input: Value) -> Value:
    return pad(ctx, input, module.padding, "replicate")


@lower_function(F.pad)
def pad(ctx: LoweringContext, input: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    """torch's `pad` counts (before, after) pairs from the last axis; the IR has all begins, then all ends."""
    if mode not in _PAD_MODES:
        raise ctx.cannot(f"mode={mode!r}")
    if any(not isinstance(item, UnknownSize) and item < 0 for item in pad):
        raise ctx.cannot("a pad is negative")
    rank = ctx.rank(input)
    begins, ends = [0] * rank, [0] * rank
    for i in range(len(pad) // 2):
        begins[rank - 1 - i], ends[rank - 1 - i] = int(pad[2 * i]), int(pad[2 * i + 1])
    return ctx.emit("pad", input, pads=(*begins, *ends), mode=_PAD_MODES[mode], value=float(value or 0.0))
