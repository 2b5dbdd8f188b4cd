"""Sampling of images at positions that are computed."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext
from hqc.frontend.fx.registry import lower_function
from hqc.ir import Value

_MODES, _PADDINGS = ("bilinear", "nearest", "bicubic"), ("zeros", "border", "reflection")


@lower_function(F.grid_sample)
def grid_sample(
    ctx: LoweringContext,
    input: Value,
    grid: Value,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Value:
    shape = ctx.shape(input)
    if (shape is not None and len(shape) != 4) or mode not in _MODES or padding_mode not in _PADDINGS:
        raise ctx.cannot(f"mode={mode!r}, padding_mode={padding_mode!r} of rank {'unknown' if shape is None else len(shape)}")
    return ctx.emit("grid_sample", input, grid, mode=mode, padding_mode=padding_mode, align_corners=bool(align_corners))


@lower_function(torch.grid_sampler, torch.grid_sampler_2d)
def grid_sampler(
    ctx: LoweringContext, input: Value, grid: Value, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Value:
    """`F.grid_sample` as torch calls it inside: modes by number."""
    return grid_sample(ctx, input, grid, _MODES[interpolation_mode], _PADDINGS[padding_mode], align_corners)
