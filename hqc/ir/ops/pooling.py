"""2-D pooling and resizing of `[N,C,H,W]`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.errors import ShapeError
from hqc.ir.op import Array, Attr, Attributes, OperandTypes, Trait, first_range, op
from hqc.ir.ops._shapes import first, shown, sizes_of_rank, window_size
from hqc.ir.ops._windows import over_adaptive_windows, windows
from hqc.ir.types import TensorType

WINDOW = (
    Attr("kernel", "ints", required=True, length=2, minimum=1),
    Attr("stride", "ints", required=True, length=2, minimum=1),
    Attr("padding", "ints", (0, 0, 0, 0), length=4, minimum=0),  # top, left, bottom, right
    Attr("ceil_mode", "bool", False),
)


def pooled(types: OperandTypes, attributes: Attributes, dilation: tuple[int, int] = (1, 1)) -> list[TensorType]:
    """Inference of pools over windows of one size."""
    x = first(types)
    n, c, *sizes = sizes_of_rank(x, 4)
    top, left, bottom, right = attributes["padding"]
    counts = [
        window_size(sizes[i], attributes["kernel"][i], attributes["stride"][i], pads, dilation[i], attributes["ceil_mode"])
        for i, pads in enumerate(((top, bottom), (left, right)))
    ]
    return [x.with_shape((n, c, *counts))]


def _smallest(dtype: np.dtype[Any]) -> float:
    return -np.inf if dtype.kind == "f" else int(np.iinfo(dtype).min)


def _max_pool2d(arrays: Sequence[Any], attributes: Attributes) -> Array:
    kernel, stride, padding, ceil = (attributes[name] for name in ("kernel", "stride", "padding", "ceil_mode"))
    fill = _smallest(arrays[0].dtype)
    view = windows(arrays[0], kernel, stride, padding, attributes["dilation"], ceil_mode=ceil, fill=fill)
    return np.asarray(view.max(axis=(4, 5)))


@op(
    "max_pool2d",
    operands="x",
    attributes=(*WINDOW, Attr("dilation", "ints", (1, 1), length=2, minimum=1)),
    traits={Trait.PASS_THROUGH, Trait.SELECTS},
    compute=_max_pool2d,
    bounds=first_range,
)
def max_pool2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Maximum over windows; padding counts as minus infinity."""
    return pooled(types, attributes, attributes["dilation"])


def window_divisors(size: int, count: int, kernel: int, stride: int, pads: tuple[int, int], include_pad: bool) -> Array:
    """Elements that torch divides each window's sum by, along one axis: with padding, or those of the input alone."""
    start = np.arange(count) * stride - pads[0]
    end = np.minimum(start + kernel, size + pads[1])
    if include_pad:
        return np.asarray(end - start)
    return np.asarray(np.minimum(end, size) - np.maximum(start, 0))


def _avg_pool2d(arrays: Sequence[Any], attributes: Attributes) -> Array:
    kernel, stride, padding, ceil = (attributes[name] for name in ("kernel", "stride", "padding", "ceil_mode"))
    x = arrays[0].astype(np.float64)
    sums = windows(x, kernel, stride, padding, ceil_mode=ceil).sum(axis=(4, 5))
    rows, columns = (
        window_divisors(
            x.shape[2 + i],
            sums.shape[2 + i],
            kernel[i],
            stride[i],
            (padding[i], padding[2 + i]),
            attributes["count_include_pad"],
        )
        for i in range(2)
    )
    return np.asarray(sums / (rows[:, None] * columns))


@op(
    "avg_pool2d",
    operands="x",
    attributes=(*WINDOW, Attr("count_include_pad", "bool", True)),
    traits={Trait.AVERAGE},
    compute=_avg_pool2d,
)
def avg_pool2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Mean over windows; torch's divisor rules for padding and ceil mode."""
    return pooled(types, attributes)


def _gain_pool2d(arrays: Sequence[Any], attributes: Attributes) -> Array:
    kernel, stride, padding, ceil = (attributes[name] for name in ("kernel", "stride", "padding", "ceil_mode"))
    sums = windows(arrays[0].astype(np.float64), kernel, stride, padding, ceil_mode=ceil).sum(axis=(4, 5))
    return np.asarray(sums * (attributes["gain"] / 512))


@op(
    "gain_pool2d",
    operands="x",
    attributes=(*WINDOW, Attr("gain", "int", required=True, minimum=1)),
    traits={Trait.PASS_THROUGH, Trait.OFF_GRID},
    compute=_gain_pool2d,
)
def gain_pool2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`sum * gain / 512` over windows, padding counting as 0: the mean of BPUs that cannot divide (`(sum * gain) >> 9`)."""
    return pooled(types, attributes)


OUTPUT_SIZE = Attr("output_size", "ints", required=True, length=2, minimum=1)


def adaptive(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Inference of adaptive pools."""
    x = first(types)
    return [x.with_shape((*sizes_of_rank(x, 4)[:2], *attributes["output_size"]))]


adaptive_avg_pool2d = op(
    "adaptive_avg_pool2d",
    operands="x",
    attributes=(OUTPUT_SIZE,),
    traits={Trait.AVERAGE},
    compute=lambda arrays, a: over_adaptive_windows(arrays[0].astype(np.float64), a["output_size"], np.mean),
    doc="Mean over windows chosen so that the result has `output_size`.",
)(adaptive)
adaptive_max_pool2d = op(
    "adaptive_max_pool2d",
    operands="x",
    attributes=(OUTPUT_SIZE,),
    traits={Trait.PASS_THROUGH, Trait.SELECTS},
    compute=lambda arrays, a: over_adaptive_windows(arrays[0], a["output_size"], np.max),
    bounds=first_range,
    doc="Maximum over windows chosen so that the result has `output_size`.",
)(adaptive)


# --- resize ------------------------------------------------------------------------------------------------------------------


def _taps(size: int, out: int, factor: float | None, mode: str, align_corners: bool) -> npt.NDArray[np.float64]:
    """`[out, size]`: how much each input row counts in each result row, by torch's formulas in float32."""
    index = np.arange(out, dtype=np.float32)
    scale = np.float32(size) / np.float32(out) if factor is None else np.float32(1.0 / factor)
    if mode == "nearest":
        return _weights(size, np.floor(index * scale).astype(np.int64)[:, None], np.ones((out, 1)))
    if align_corners:
        source = index * (np.float32(size - 1) / np.float32(out - 1) if out > 1 else np.float32(0))
    else:
        source = (index + np.float32(0.5)) * scale - np.float32(0.5)
    if mode == "bilinear":
        source = np.maximum(source, np.float32(0))
    low = np.floor(source)
    t = (source - low).astype(np.float64)
    if mode == "bilinear":
        return _weights(size, low.astype(np.int64)[:, None] + np.arange(2), np.stack([1 - t, t], axis=1))
    distances = np.stack([t + 1, t, 1 - t, 2 - t], axis=1)
    return _weights(size, low.astype(np.int64)[:, None] + np.arange(-1, 3), cubic_weights(distances))


def cubic_weights(x: npt.NDArray[np.float64], a: float = -0.75) -> npt.NDArray[np.float64]:
    """Keys' convolution kernel (Cubic convolution interpolation, 1981) with torch's a."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    result: npt.NDArray[np.float64] = np.where(x <= 1, near, far)
    return result


def _weights(size: int, indices: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    matrix = np.zeros((len(indices), size))
    rows = np.broadcast_to(np.arange(len(indices))[:, None], indices.shape)
    np.add.at(matrix, (rows, np.clip(indices, 0, size - 1)), weights)
    return matrix


def _resized(sizes: Sequence[int | None], attributes: Attributes) -> list[int | None]:
    """Height and width of the result."""
    if attributes["size"] is not None:
        return list(attributes["size"])
    factors = attributes["scale_factor"] or (1.0, 1.0)
    return [None if n is None else int(n * f) for n, f in zip(sizes, factors, strict=True)]


def _resize2d(arrays: Sequence[Any], attributes: Attributes) -> Array:
    x = arrays[0].astype(np.float64)
    factors = (None, None) if attributes["size"] is not None else attributes["scale_factor"]
    rows, columns = (
        _taps(size, out or 0, factor, attributes["mode"], attributes["align_corners"])
        for size, out, factor in zip(x.shape[2:], _resized(x.shape[2:], attributes), factors, strict=True)
    )
    return np.asarray(rows @ x @ columns.T)


@op(
    "resize2d",
    operands="x",
    attributes=(
        Attr("size", "optional_ints", length=2, minimum=1),
        Attr("scale_factor", "floats", (), length=2, minimum=0),  # (h, w), used when size is None
        Attr("mode", "str", "nearest", choices=("nearest", "bilinear", "bicubic")),
        Attr("align_corners", "bool", False),
    ),
    traits={Trait.PASS_THROUGH, Trait.OFF_GRID},
    compute=_resize2d,
)
def resize2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`torch.nn.functional.interpolate` in 2-D; the output size is `size`, or `floor(in * scale_factor)`."""
    x = first(types)
    n, c, *sizes = sizes_of_rank(x, 4)
    if attributes["size"] is None and not attributes["scale_factor"]:
        if x.shape is not None:
            raise ShapeError("resize2d needs size=(h, w) or scale_factor=(h, w)")
        return [x.with_shape((n, c, None, None))]  # the size may come from a tensor of unknown shape: it is given later
    result = _resized(sizes, attributes)
    if any(size is not None and size < 1 for size in result):
        raise ShapeError(f"resize2d by {list(attributes['scale_factor'])} leaves nothing of {shown((n, c, *sizes))}")
    return [x.with_shape((n, c, *result))]
