"""Pooling and resizing with torch's rules for padding, ceil mode, divisors and coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.backends.onnx.builder import Builder
from hqc.backends.onnx.emitters._operands import cast_to, shapes, type_of, widen
from hqc.backends.onnx.registry import emitter
from hqc.ir import DType, Node


def trailing_pads(node: Node, dilation: Sequence[int] = (1, 1)) -> list[int]:
    """Bottom and right padding that makes floor mode give the result's size, so that ceil mode is never needed.

    torch lets a window of ceil mode overhang the padded input; ONNX runtimes disagree on which windows count.
    """
    given, result = shapes(node)
    pads = []
    for axis in range(2):
        kernel = dilation[axis] * (node.attributes["kernel"][axis] - 1) + 1
        needed = (result[2 + axis] - 1) * node.attributes["stride"][axis] + kernel
        overhang = needed - given[2 + axis] - node.attributes["padding"][axis]
        pads.append(max(overhang, 0) if node.attributes["ceil_mode"] else node.attributes["padding"][2 + axis])
    return pads


def _pad(b: Builder, x: str, pads: Sequence[int], value: float, dtype: DType = DType.FLOAT32) -> str:
    """Pad height and width by (top, left, bottom, right)."""
    top, left, bottom, right = pads
    return b("Pad", x, b.ints([0, 0, top, left, 0, 0, bottom, right]), b.scalar(value, dtype), mode="constant")


@emitter("max_pool2d")
def max_pool2d(node: Node, b: Builder) -> str:
    """MaxPool; integers, which opset 11 cannot pool, go through float (exact below 2^24)."""
    dtype = type_of(node)
    x, wide = widen(b, b.operand(node, 0), dtype, DType.FLOAT32, DType.FLOAT64)
    kernel, dilation = node.attributes["kernel"], node.attributes["dilation"]
    pads = [*node.attributes["padding"][:2], *trailing_pads(node, dilation)]
    if any(pad >= kernel[i % 2] for i, pad in enumerate(pads)):  # runtimes refuse a pad as large as the kernel
        x, pads = _pad(b, x, pads, -math.inf, wide), [0, 0, 0, 0]
    result = b(
        "MaxPool", x, kernel_shape=list(kernel), strides=list(node.attributes["stride"]), pads=pads, dilations=list(dilation)
    )
    return cast_to(b, result, wide, dtype)


@emitter("avg_pool2d")
def avg_pool2d(node: Node, b: Builder) -> str:
    """AveragePool over what torch's divisor counts.

    With `count_include_pad` the divisor counts the declared padding but not the overhang of ceil mode: the padding becomes
    explicit zeros, the overhang padding that is not counted.
    """
    x = b.operand(node, 0)
    kernel, padding = node.attributes["kernel"], list(node.attributes["padding"])
    trailing = trailing_pads(node)
    pads, include = [*padding[:2], *trailing], node.attributes["count_include_pad"]
    if include and any(more > declared for more, declared in zip(trailing, padding[2:], strict=True)):
        if any(padding):
            x = _pad(b, x, padding, 0.0, type_of(node))
        pads = [0, 0, *(max(more - declared, 0) for more, declared in zip(trailing, padding[2:], strict=True))]
        include = False
    return b(
        "AveragePool",
        x,
        kernel_shape=list(kernel),
        strides=list(node.attributes["stride"]),
        pads=pads,
        count_include_pad=int(include),
    )


@emitter("gain_pool2d")
def gain_pool2d(node: Node, b: Builder) -> str:
    """The mean over windows that all count `kernel` elements, times what the gain makes of it."""
    pads = [*node.attributes["padding"][:2], *trailing_pads(node)]
    kernel = node.attributes["kernel"]
    pooled = b(
        "AveragePool",
        b.operand(node, 0),
        kernel_shape=list(kernel),
        strides=list(node.attributes["stride"]),
        pads=pads,
        count_include_pad=1,
    )
    return b("Mul", pooled, b.scalar(kernel[0] * kernel[1] * node.attributes["gain"] / 512.0))


# --- adaptive pooling ------------------------------------------------------------------------------------------------


def adaptive_windows(size: int, count: int) -> list[tuple[int, int]]:
    """torch's windows `[floor(i n / m), ceil((i + 1) n / m))` along one axis."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def reduce_windows(b: Builder, x: str, axis: int, windows: Sequence[tuple[int, int]], reduction: str) -> str:
    """One reduced slice per window, concatenated along `axis`."""
    parts = []
    for start, end in windows:
        part = b("Slice", x, b.ints([start]), b.ints([end]), b.ints([axis]))
        parts.append(part if end - start == 1 else b(reduction, part, axes=[axis], keepdims=1))
    return parts[0] if len(parts) == 1 else b("Concat", *parts, axis=axis)


def _uniform(node: Node) -> dict[str, Any] | None:
    """Kernel and stride of the plain pooling that an adaptive one with divisible sizes equals."""
    given, result = shapes(node)
    if given[2] % result[2] or given[3] % result[3]:
        return None
    kernel = [given[2] // result[2], given[3] // result[3]]
    return {"kernel_shape": kernel, "strides": kernel}


@emitter("adaptive_avg_pool2d")
def adaptive_avg_pool2d(node: Node, b: Builder) -> str:
    x, (given, result) = b.operand(node, 0), shapes(node)
    if result[2:] == (1, 1):
        return b("GlobalAveragePool", x)
    uniform = _uniform(node)
    if uniform is not None:
        return b("AveragePool", x, **uniform)
    rows, columns = adaptive_windows(given[2], result[2]), adaptive_windows(given[3], result[3])
    total = reduce_windows(b, reduce_windows(b, x, 2, rows, "ReduceSum"), 3, columns, "ReduceSum")
    counts = np.outer([end - start for start, end in rows], [end - start for start, end in columns])
    return b("Div", total, b.constant(counts, type_of(node).numpy, "counts"))


@emitter("adaptive_max_pool2d")
def adaptive_max_pool2d(node: Node, b: Builder) -> str:
    dtype = type_of(node)
    x, wide = widen(b, b.operand(node, 0), dtype, DType.FLOAT32, DType.FLOAT64)
    given, result = shapes(node)
    uniform = _uniform(node)
    if result[2:] == (1, 1):
        pooled = b("GlobalMaxPool", x)
    elif uniform is not None:
        pooled = b("MaxPool", x, **uniform)
    else:
        rows, columns = adaptive_windows(given[2], result[2]), adaptive_windows(given[3], result[3])
        pooled = reduce_windows(b, reduce_windows(b, x, 2, rows, "ReduceMax"), 3, columns, "ReduceMax")
    return cast_to(b, pooled, wide, dtype)


# --- resize ----------------------------------------------------------------------------------------------------------


def _nearest_indices(size: int, out: int, factor: float | None) -> npt.NDArray[np.int64]:
    """torch's nearest source index: `min(floor(i * scale), size - 1)` in float32, whatever the factor for equal or doubled sizes."""
    if out in (size, 2 * size):
        return np.arange(out) * size // out
    scale = np.float32(1.0 / factor) if factor is not None else np.float32(size) / np.float32(out)
    index = np.floor(np.arange(out, dtype=np.float32) * scale).astype(np.int64)
    return np.asarray(np.minimum(index, size - 1))


def _runtime_nearest(size: int, out: int, factor: float | None) -> npt.NDArray[np.int64]:
    """ONNX's `asymmetric` + `floor`: `floor(i / scale)` in float32."""
    scale = np.float32(factor) if factor is not None else np.float32(out) / np.float32(size)
    return np.asarray(np.clip(np.floor(np.arange(out, dtype=np.float32) / scale).astype(np.int64), 0, size - 1))


@emitter("resize2d")
def resize2d(node: Node, b: Builder) -> str:
    """Resize; nearest becomes two Gathers where the float formulas of torch and ONNX pick different pixels."""
    x, (given, result) = b.operand(node, 0), shapes(node)
    if given == result:
        return b("Identity", x)
    mode, factors = node.attributes["mode"], node.attributes["scale_factor"]
    factor: Sequence[float | None] = (None, None) if node.attributes["size"] is not None else factors
    if mode == "nearest":
        wanted = [_nearest_indices(given[2 + i], result[2 + i], factor[i]) for i in range(2)]
        runtime = [_runtime_nearest(given[2 + i], result[2 + i], factor[i]) for i in range(2)]
        if any((a != o).any() for a, o in zip(wanted, runtime, strict=True)):
            for axis, index in zip((2, 3), wanted, strict=True):
                x = b("Gather", x, b.constant(index, np.int64, "rows" if axis == 2 else "columns"), axis=axis)
            return x
        options: dict[str, Any] = {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        }
    else:
        options = {"mode": "linear" if mode == "bilinear" else "cubic", "coordinate_transformation_mode": _coordinates(node)}
        if mode == "bicubic":
            options["cubic_coeff_a"] = -0.75
    roi = b.constant(np.zeros(0), np.float32, "roi")
    exact = factor[0] is not None and all(
        int(np.floor(np.float32(given[2 + i]) * np.float32(factors[i]))) == result[2 + i] for i in range(2)
    )
    if exact:
        return b("Resize", x, roi, b.constant([1.0, 1.0, *factors], np.float32, "scales"), **options)
    no_scales = b.constant(np.zeros(0), np.float32, "scales")
    return b("Resize", x, roi, no_scales, b.ints(result, "sizes"), **options)


def _coordinates(node: Node) -> str:
    """`pytorch_half_pixel` sends a result of length 1 to coordinate 0, which torch does not do."""
    if node.attributes["align_corners"]:
        return "align_corners"
    return "half_pixel" if 1 in shapes(node)[1][2:] else "pytorch_half_pixel"
