"""Pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hqc.frontend.onnx.context import OnnxContext, Unexpressed
from hqc.frontend.onnx.ops._windows import window
from hqc.frontend.onnx.registry import lowers_onnx
from hqc.ir import Value


@lowers_onnx("MaxPool", "AveragePool")
def pool(ctx: OnnxContext) -> Value:
    x = ctx.data()
    if len([name for name in ctx.node.output if name]) > 1:
        raise Unexpressed("its indices are read")
    if ctx.rank(x) not in (3, 4):
        raise Unexpressed(f"it is a {ctx.rank(x) - 2}-D pool")
    found = window(ctx, ctx.ints("kernel_shape") or [], ctx.shape(x)[2:])
    attributes: dict[str, Any] = {
        **found.attributes("kernel", "stride", "padding"),
        "ceil_mode": bool(ctx.attribute("ceil_mode", 0)),
    }
    op = "max_pool2d"
    if ctx.node.op_type == "MaxPool":
        attributes["dilation"] = found.dilation
    else:
        if found.dilation != (1, 1):
            raise Unexpressed("it is dilated")
        op = "avg_pool2d"
        attributes["count_include_pad"] = bool(ctx.attribute("count_include_pad", 0))
    if ctx.rank(x) == 4:
        return ctx.emit(op, x, **attributes)
    batch, channels, length = ctx.shape(x)
    row = ctx.emit(op, ctx.reshape(x, (batch, channels, 1, length), what="image"), what="row", **attributes)
    return ctx.reshape(row, (batch, channels, ctx.shape(row)[3]))


@lowers_onnx("GlobalAveragePool", "GlobalMaxPool")
def global_pool(ctx: OnnxContext) -> Value:
    x = ctx.data()
    average = ctx.node.op_type == "GlobalAveragePool"
    op = "adaptive_avg_pool2d" if average else "adaptive_max_pool2d"
    if ctx.rank(x) == 4:
        return ctx.emit(op, x, output_size=(1, 1))
    if ctx.rank(x) == 3:
        batch, channels, length = ctx.shape(x)
        image = ctx.reshape(x, (batch, channels, 1, length), what="image")
        return ctx.reshape(ctx.emit(op, image, what="of_image", output_size=(1, 1)), (batch, channels, 1))
    return ctx.emit("mean" if average else "reduce_max", x, axes=tuple(range(2, ctx.rank(x))), keepdims=True)


@lowers_onnx("LpPool", "GlobalLpPool", "MaxRoiPool")
def unknown_pool(ctx: OnnxContext) -> Value:
    raise Unexpressed(f"the IR has no {ctx.node.op_type}")


@lowers_onnx("Resize", "Upsample")
def resize(ctx: OnnxContext) -> Value:
    """Image resizes with torch's coordinates: half-pixel or asymmetric with whole factors, align-corners."""
    x = ctx.data()
    if ctx.rank(x) != 4:
        raise Unexpressed("it resizes other axes than height and width")
    sizes, factors = _sizes_and_factors(ctx)
    shape = ctx.shape(x)
    target = (
        sizes
        if sizes is not None
        else [int(np.floor(size * factor)) for size, factor in zip(shape, factors or [], strict=True)]
    )
    if list(target[:2]) != list(shape[:2]):
        raise Unexpressed("it resizes the batch or the channels")
    mode = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}[ctx.attribute("mode", "nearest")]
    old = ctx.opset < 11
    coordinates = "asymmetric" if old else ctx.attribute("coordinate_transformation_mode", "half_pixel")
    if (
        coordinates == "tf_crop_and_resize"
        or ctx.attribute("antialias", 0)
        or ctx.attribute("keep_aspect_ratio_policy", "stretch") != "stretch"
    ):
        raise Unexpressed("its way of resizing is none of torch's")
    corners = coordinates == "align_corners"
    whole = all(t % s == 0 for t, s in zip(target[2:], shape[2:], strict=True))
    rounding = "floor" if old else ctx.attribute("nearest_mode", "round_prefer_floor")
    if mode == "nearest":
        # By whole factors every rule but align_corners picks the same pixels, unless it rounds up.
        floors = coordinates == "asymmetric" and rounding in (
            "floor",
            "round_prefer_floor" if whole and max(t // s for t, s in zip(target[2:], shape[2:], strict=True)) <= 2 else "floor",
        )
        halves = whole and coordinates in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round")
        tensorflow = whole and coordinates == "tf_half_pixel_for_nn" and rounding == "floor" and _grows(shape[2:], target[2:])
        if not (floors or halves or tensorflow):
            raise Unexpressed(f"nearest with {coordinates} and {rounding} picks other pixels than torch does")
    elif coordinates not in ("half_pixel", "pytorch_half_pixel", "align_corners") and list(target) != list(shape):
        raise Unexpressed(f"{mode} with {coordinates} coordinates is none of torch's")
    if mode == "bicubic" and not np.isclose(ctx.attribute("cubic_coeff_a", -0.75), -0.75):
        raise Unexpressed("its cubic coefficient is not torch's -0.75")
    return ctx.emit("resize2d", x, size=tuple(target[2:]), mode=mode, align_corners=corners and mode != "nearest")


def _grows(sizes: Sequence[int], target: Sequence[int]) -> bool:
    """True for factors of 1 along both axes, or more: (i + 1/2) / f lies in pixel i // f then."""
    return all(t >= s for t, s in zip(target, sizes, strict=True))


def _sizes_and_factors(ctx: OnnxContext) -> tuple[list[int] | None, list[float] | None]:
    if ctx.node.op_type == "Upsample" and ctx.opset < 9:
        return None, list(ctx.attribute("scales"))
    index = 1 if ctx.opset < 11 else 2
    factors = ctx.constant(index)
    sizes = ctx.constant(3) if ctx.opset >= 11 else None
    axes = ctx.ints("axes")
    rank = ctx.rank(ctx.data())
    if sizes is not None and sizes.size:
        whole = list(ctx.shape(ctx.data()))
        for axis, size in zip(axes if axes is not None else range(rank), sizes.tolist(), strict=True):
            whole[axis % rank] = int(size)
        return whole, None
    if factors is None or not factors.size:
        raise Unexpressed("neither sizes nor scales are known")
    spread = [1.0] * rank
    for axis, factor in zip(axes if axes is not None else range(rank), factors.tolist(), strict=True):
        spread[axis % rank] = float(factor)
    return None, spread
