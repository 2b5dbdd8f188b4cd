"""Sampling at computed positions (GridSample, opset 16 and later)."""

from __future__ import annotations

from hqc.frontend.onnx.context import OnnxContext, Unexpressed
from hqc.frontend.onnx.registry import lowers_onnx
from hqc.ir import Value

_MODES = {"linear": "bilinear", "cubic": "bicubic"}
"""Names that opset 20 changed."""


@lowers_onnx("GridSample")
def grid_sample(ctx: OnnxContext) -> Value:
    x, grid = ctx.data(0), ctx.data(1)
    if ctx.rank(x) != 4:
        raise Unexpressed(f"it samples {ctx.rank(x) - 2}-D volumes")
    mode = ctx.attribute("mode", "bilinear")
    return ctx.emit(
        "grid_sample",
        x,
        grid,
        mode=_MODES.get(mode, mode),
        padding_mode=ctx.attribute("padding_mode", "zeros"),
        align_corners=bool(ctx.attribute("align_corners", 0)),
    )
