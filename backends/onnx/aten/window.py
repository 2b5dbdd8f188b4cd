"""Pooling of one to three dimensions, its indices and inverse, resizing, patches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.backends.onnx.aten.calls import Call
from hqc.backends.onnx.aten.layout import padded
from hqc.backends.onnx.aten.writer import AtenEmitter, CallWriter, NoFormError, aten, shape
from hqc.backends.onnx.emitters.pooling import adaptive_windows
from hqc.ir import DType, TensorType, Value

F32, I64 = DType.FLOAT32, DType.INT64


def _spread(item: Any, rank: int, default: Sequence[int] = ()) -> list[int]:
    values = list(default) if item is None or item == [] else [item] if isinstance(item, int) else list(item)
    return values * rank if len(values) == 1 else values


def _batched(w: CallWriter, x: Value, rank: int) -> Value:
    """`[N, C, ...]`; torch takes samples without a batch too."""
    return w.reshape(x, [1, *shape(x)]) if len(shape(x)) == rank + 1 else x


def _dimensions(c: Call) -> int:
    return next(n for n in (1, 2, 3) if f"{n}d" in c.target)


def window_positions(
    size: int, out: int, kernel: int, stride: int, padding: int, dilation: int = 1
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """`[out, kernel]` positions that each window reads along one axis, and which of them lie inside."""
    at = np.arange(out)[:, None] * stride - padding + np.arange(kernel) * dilation
    return at.clip(0, max(size - 1, 0)), (at >= 0) & (at < size)


# --- max pooling -------------------------------------------------------------------------------------------------------------


@aten(*(f"max_pool{n}d.default" for n in (1, 2, 3)), *(f"max_pool{n}d_with_indices.default" for n in (1, 2, 3)))
def max_pool(c: Call, w: CallWriter) -> list[Value]:
    """Values, and where asked the position of each maximum in its plane.

    All elements of each window are laid side by side; the maximum is theirs, and its index says which position it was. ONNX's own
    indices count from the start of the whole tensor and runtimes disagree about padded windows.
    """
    rank = _dimensions(c)
    x = _batched(w, w.value(c["self"]), rank)
    kernel = _spread(c["kernel_size"], rank)
    stride, dilation = _spread(c["stride"], rank, kernel), _spread(c["dilation"], rank)
    padding, out = _spread(c["padding"], rank), list(c.shape[-rank:])
    if len(c.results) == 1:
        trailing = [
            max((o - 1) * s + d * (k - 1) + 1 - n - p, 0)
            for o, s, d, k, n, p in zip(out, stride, dilation, kernel, shape(x)[-rank:], padding, strict=True)
        ]
        return [w.reshape(_plain_max(w, x, kernel, stride, dilation, padding, trailing, out), c.shape)]
    spatial = shape(x)[-rank:]
    ways = [window_positions(*each) for each in zip(spatial, out, kernel, stride, padding, dilation, strict=True)]
    position, inside = _all_positions([at for at, _ in ways], spatial), _all_inside([ok for _, ok in ways])
    flat = w.reshape(x, [*shape(x)[:2], math.prod(spatial)])
    taken = w.gather(flat, position, 2)  # [N, C, windows, elements]
    if not inside.all():
        lowest = -math.inf if c.dtype.is_float else c.dtype.qmin
        taken = w.op("where", w.const(inside, DType.BOOL), taken, w.const(lowest, c.dtype))
    values = w.op("reduce_max", taken, axes=(3,))
    choice = w.op("argmax", taken, axis=3)
    table = w.expand(w.const(position[None, None], I64), (*shape(x)[:2], *position.shape))
    places = w.onnx(
        "GatherElements", table, w.reshape(choice, [*shape(choice), 1]), type=TensorType(I64, (*shape(choice), 1)), axis=3
    )
    return [w.reshape(values, c.shape), w.reshape(places, c.shape)]


def _plain_max(
    w: CallWriter, x: Value, kernel: list[int], stride: list[int], dilation: list[int], padding: list[int], trailing: list[int],
    out: list[int],
) -> Value:  # fmt: skip
    wide = x if x.type.dtype.is_float else w.cast(x, F32)
    pads = [*padding, *trailing]
    if any(pad >= kernel[i % len(kernel)] for i, pad in enumerate(pads)):  # runtimes refuse a pad as large as the kernel
        amounts = [amount for i in reversed(range(len(kernel))) for amount in (padding[i], trailing[i])]
        wide, pads = padded(w, wide, amounts, "constant", -math.inf), [0] * len(pads)
    type = TensorType(wide.type.dtype, (*shape(x)[:2], *out))
    pooled = w.onnx("MaxPool", wide, type=type, kernel_shape=kernel, strides=stride, dilations=dilation, pads=pads)
    return w.cast(pooled, x.type.dtype)


def _all_positions(axes: list[npt.NDArray[np.int64]], sizes: Sequence[int]) -> npt.NDArray[np.int64]:
    """Positions in the flattened plane, `[windows, elements]`."""
    total = np.zeros((1, 1), np.int64)
    for at, size in zip(axes, sizes, strict=True):
        total = (total[:, None, :, None] * size + at[None, :, None, :]).reshape(total.shape[0] * len(at), -1)
    return total


def _all_inside(axes: list[npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
    total = np.ones((1, 1), bool)
    for ok in axes:
        total = (total[:, None, :, None] & ok[None, :, None, :]).reshape(total.shape[0] * len(ok), -1)
    return total


@aten("max_unpool2d.default", "max_unpool3d.default")
def max_unpool(c: Call, w: CallWriter) -> Value:
    """ScatterElements into planes of zeros."""
    rank = _dimensions(c)
    x, indices = _batched(w, w.value(c["self"]), rank), _batched(w, w.value(c["indices"]), rank)
    lead, plane = list(shape(x)[:2]), math.prod(c.shape[-rank:])
    count = math.prod(shape(x)[2:])
    zeros = w.expand(w.const(0, c.dtype), [*lead, plane])
    flat, at = w.reshape(x, [*lead, count]), w.reshape(indices, [*lead, count])
    return w.reshape(w.onnx("ScatterElements", zeros, at, flat, type=zeros.type, axis=2), c.shape)


@aten("adaptive_max_pool1d.default", "adaptive_max_pool2d.default", "adaptive_max_pool3d.default")
def adaptive_max_pool(c: Call, w: CallWriter) -> list[Value]:
    rank = _dimensions(c)
    x = _batched(w, w.value(c["self"]), rank)
    spatial, out = shape(x)[-rank:], c.shape[-rank:]
    windows = [adaptive_windows(n, m) for n, m in zip(spatial, out, strict=True)]
    widest = [max(end - start for start, end in each) for each in windows]
    at = [np.stack([np.minimum(np.arange(start, start + k), end - 1) for start, end in each])
          for each, k in zip(windows, widest, strict=True)]  # fmt: skip
    position = _all_positions(at, spatial)  # the last element of a short window counts twice, which no maximum minds
    taken = w.gather(w.reshape(x, [*shape(x)[:2], math.prod(spatial)]), position, 2)
    values = w.op("reduce_max", taken, axes=(3,))
    choice = w.op("argmax", taken, axis=3)
    table = w.expand(w.const(position[None, None], I64), (*shape(x)[:2], *position.shape))
    places = w.onnx(
        "GatherElements", table, w.reshape(choice, [*shape(choice), 1]), type=TensorType(I64, (*shape(choice), 1)), axis=3
    )
    return [w.reshape(values, c.shape), w.reshape(places, c.shape)]


# --- average pooling -----------------------------------------------------------------------------------------------------------


@aten("avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default")
def avg_pool(c: Call, w: CallWriter) -> Value:
    """Sums of windows times what each divides by: torch counts padding or not, and takes any divisor."""
    rank = _dimensions(c)
    x = _batched(w, w.value(c["self"]), rank)
    kernel = _spread(c["kernel_size"], rank)
    stride, padding = _spread(c["stride"], rank, kernel), _spread(c["padding"], rank)
    out, spatial = c.shape[-rank:], shape(x)[-rank:]
    trailing = [max((o - 1) * s + k - n - p, 0) for o, s, k, n, p in zip(out, stride, kernel, spatial, padding, strict=True)]
    amounts = [amount for i in reversed(range(rank)) for amount in (padding[i], trailing[i])]
    if any(amounts):
        x = padded(w, x, amounts, "constant")
    type = TensorType(c.dtype, (*shape(x)[:2], *out))
    # The padded size may hold more windows than torch counts in floor mode; the sum over the window is its mean times its size.
    for i, (o, s, k) in enumerate(zip(out, stride, kernel, strict=True)):
        x = w.slice(x, 2 + i, 0, (o - 1) * s + k)
    mean = w.onnx("AveragePool", x, type=type, kernel_shape=kernel, strides=stride)
    factor = _divisors(c, spatial, out, kernel, stride, padding)
    if (factor != 1).any():
        mean = w.op("mul", mean, w.const(factor, c.dtype))
    return w.reshape(mean, c.shape)


def _divisors(
    c: Call, spatial: Sequence[int], out: Sequence[int], kernel: list[int], stride: list[int], padding: list[int]
) -> npt.NDArray[np.float64]:
    """Window size over torch's divisor, per output position."""
    volume = math.prod(kernel)
    if c.get("divisor_override"):
        return np.asarray(volume / c["divisor_override"])
    counts = np.ones(())
    for n, o, k, s, p in zip(spatial, out, kernel, stride, padding, strict=True):
        start = np.arange(o) * s - p
        end = np.minimum(start + k, n + p)  # the overhang of ceil mode never counts
        if not c["count_include_pad"]:
            start, end = np.maximum(start, 0), np.minimum(end, n)
        counts = counts[..., None] * (end - start)
    return np.asarray(volume / counts)


@aten("adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default", "adaptive_avg_pool3d.default", "_adaptive_avg_pool2d.default",
      "_adaptive_avg_pool3d.default")  # fmt: skip
def adaptive_avg_pool(c: Call, w: CallWriter) -> Value:
    """Along each axis a product with the matrix of window weights, or a reshape and a mean where windows are equal."""
    rank = _dimensions(c)
    x = w.value(c["self"])
    lead = len(shape(x)) - rank
    for i in range(rank):
        axis, size, out = lead + i, shape(x)[lead + i], c.shape[lead + i]
        if size == out:
            continue
        if size % out == 0:
            split = w.reshape(x, [*shape(x)[:axis], out, size // out, *shape(x)[axis + 1 :]])
            x = w.op("mean", split, axes=(axis + 1,))
            continue
        weights = np.zeros((size, out))
        for column, (start, end) in enumerate(adaptive_windows(size, out)):
            weights[start:end, column] = 1 / (end - start)
        x = along(w, x, axis, weights)
    return x


def along(w: CallWriter, x: Value, axis: int, matrix: npt.NDArray[Any]) -> Value:
    """`x` with axis of size n replaced by m: a product with a constant `[n, m]` matrix."""
    rank = len(shape(x))
    perm = [i for i in range(rank) if i != axis] + [axis]
    moved = w.op("matmul", w.transpose(x, perm), w.const(matrix, x.type.dtype))
    return w.transpose(moved, [perm.index(i) for i in range(rank)])


# --- resizing --------------------------------------------------------------------------------------------------------------------


def _scales(c: Call, rank: int, spatial: Sequence[int]) -> list[float]:
    """Input steps per output step as torch computes them: by the given factor, else by the sizes."""
    given = c.get("scale_factors") or [c.get(name) for name in ("scales_d", "scales_h", "scales_w", "scales")]
    found = [factor for factor in given if factor is not None] if given else []
    if len(found) == rank:
        return [1.0 / factor for factor in found]
    return [n / m for n, m in zip(spatial, c.shape[-rank:], strict=True)]


def _tent(size: int, out: int, scale: float, align_corners: bool) -> npt.NDArray[np.float64]:
    """Weights `[size, out]` of linear interpolation."""
    position = _coordinates(size, out, scale, align_corners)
    position = np.maximum(position, 0.0)
    low = np.minimum(position.astype(np.int64), size - 1)
    high = np.minimum(low + 1, size - 1)
    share = position - low
    weights = np.zeros((size, out))
    np.add.at(weights, (low, np.arange(out)), 1 - share)
    np.add.at(weights, (high, np.arange(out)), share)
    return weights


def _coordinates(size: int, out: int, scale: float, align_corners: bool) -> npt.NDArray[np.float64]:
    if align_corners:
        scale = (size - 1) / (out - 1) if out > 1 else 0.0
        return np.asarray(np.arange(out) * scale)
    return np.asarray((np.arange(out) + 0.5) * scale - 0.5)


def _cubic(size: int, out: int, scale: float, align_corners: bool) -> npt.NDArray[np.float64]:
    """Weights `[size, out]` of Keys' cubic with a = -0.75 over clamped neighbours."""
    position, a = _coordinates(size, out, scale, align_corners), -0.75
    floor = np.floor(position)
    weights = np.zeros((size, out))
    for offset in range(-1, 3):
        distance = np.abs(position - (floor + offset))
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        at = np.clip(floor.astype(np.int64) + offset, 0, size - 1)
        np.add.at(weights, (at, np.arange(out)), np.where(distance <= 1, near, np.where(distance < 2, far, 0.0)))
    return weights


def _interpolation(weights: Any) -> AtenEmitter:
    def emit(c: Call, w: CallWriter) -> Value:
        x = w.value(c["self"] if "self" in c.arguments else c["input"])
        rank = len(shape(x)) - 2
        spatial, align = shape(x)[2:], bool(c["align_corners"])
        for i, (size, scale) in enumerate(zip(spatial, _scales(c, rank, spatial), strict=True)):
            if size != c.shape[2 + i]:
                x = along(w, x, 2 + i, weights(size, c.shape[2 + i], scale, align))
        return x

    return emit


aten("upsample_linear1d.default", "upsample_bilinear2d.default", "upsample_trilinear3d.default", "upsample_linear1d.vec",
     "upsample_bilinear2d.vec", "upsample_trilinear3d.vec")(_interpolation(_tent))  # fmt: skip
aten("upsample_bicubic2d.default", "upsample_bicubic2d.vec")(_interpolation(_cubic))


def _antialiased(kernel: Any, support: float) -> Any:
    """Weights `[size, out]` of a filter as wide as the step between output samples, normalized over what lies inside."""

    def weights(size: int, out: int, scale: float, align_corners: bool) -> npt.NDArray[np.float64]:
        if align_corners:
            scale = (size - 1) / (out - 1) if out > 1 else 0.0
        wide = max(scale, 1.0)
        centre = scale * (np.arange(out) + 0.5)
        low = np.maximum((centre - support * wide + 0.5).astype(np.int64), 0)
        high = np.minimum((centre + support * wide + 0.5).astype(np.int64), size)
        at = np.arange(size)[:, None]
        found = np.where((at >= low) & (at < high), kernel((at - centre + 0.5) / wide), 0.0)
        return np.asarray(found / found.sum(0))

    return weights


def _keys(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Keys' cubic with a = -0.5, which torch takes for antialiased resizing."""
    x, a = np.abs(x), -0.5
    near, far = ((a + 2) * x - (a + 3)) * x**2 + 1, ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


aten("_upsample_bilinear2d_aa.default", "_upsample_bilinear2d_aa.vec")(
    _interpolation(_antialiased(lambda x: np.maximum(1 - np.abs(x), 0.0), 1.0))
)
aten("_upsample_bicubic2d_aa.default", "_upsample_bicubic2d_aa.vec")(_interpolation(_antialiased(_keys, 2.0)))


@aten(*(f"{kind}{n}d.{overload}" for kind in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)
        for overload in ("default", "vec")))  # fmt: skip
def nearest(c: Call, w: CallWriter) -> Value:
    """One Gather per axis, at torch's float32 source positions."""
    x = w.value(c["self"] if "self" in c.arguments else c["input"])
    rank = len(shape(x)) - 2
    half = 0.5 if "exact" in c.target else 0.0
    for i, (size, scale) in enumerate(zip(shape(x)[2:], _scales(c, rank, shape(x)[2:]), strict=True)):
        out = c.shape[2 + i]
        steps = (np.arange(out, dtype=np.float32) + np.float32(half)) * np.float32(scale)
        at = np.minimum(np.floor(steps).astype(np.int64), size - 1)
        if size != out or (at != np.arange(size)).any():
            x = w.gather(x, at, 2 + i)
    return x


# --- patches ----------------------------------------------------------------------------------------------------------------------


@aten("im2col.default")
def im2col(c: Call, w: CallWriter) -> Value:
    x = _batched(w, w.value(c["self"]), 2)
    kernel, dilation, padding, stride = (list(c[name]) for name in ("kernel_size", "dilation", "padding", "stride"))
    x = padded(w, x, [padding[1], padding[1], padding[0], padding[0]], "constant") if any(padding) else x
    spatial = shape(x)[2:]
    for i, axis in ((1, 3), (0, 2)):  # columns first, so that axis 2 is still where it was
        size = spatial[i]
        out = (size - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        at = np.arange(kernel[i])[:, None] * dilation[i] + np.arange(out) * stride[i]
        x = w.gather(x, at, axis)
    # now [N, C, kh, out_h, kw, out_w]
    x = w.transpose(x, [0, 1, 2, 4, 3, 5])
    return w.reshape(x, c.shape)


@aten("col2im.default")
def col2im(c: Call, w: CallWriter) -> Value:
    """Every kernel position adds its patch to the plane: a padded, dilated copy each."""
    x = w.value(c["self"])
    kernel, dilation, padding, stride = (list(c[name]) for name in ("kernel_size", "dilation", "padding", "stride"))
    size = list(c["output_size"])
    out = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    ]
    batched = len(shape(x)) == 3
    lead = [shape(x)[0] if batched else 1, c.shape[-3]]
    x = w.reshape(x, [*lead, *kernel, *out])
    full = [n + 2 * p for n, p in zip(size, padding, strict=True)]
    if kernel[0] * kernel[1] > 400:
        raise NoFormError("fold with kernels of more than 400 elements has no affordable form in opset 11")
    total: Value | None = None
    for row, column in itertools.product(range(kernel[0]), range(kernel[1])):
        patch = w.reshape(w.slice(w.slice(x, 2, row, row + 1), 3, column, column + 1), [*lead, *out])
        for axis, (start, step) in ((2, (row * dilation[0], stride[0])), (3, (column * dilation[1], stride[1]))):
            patch = _spaced(w, patch, axis, start, step, full[axis - 2])
        total = patch if total is None else w.op("add", total, patch)
    assert total is not None
    for i in range(2):
        total = w.slice(total, 2 + i, padding[i], padding[i] + size[i])
    return w.reshape(total, c.shape)


def _spaced(w: CallWriter, x: Value, axis: int, start: int, step: int, size: int) -> Value:
    """Elements along `axis` at `start`, `start + step`, ... of an axis of `size`, zeros between."""
    count = shape(x)[axis]
    zero = w.expand(w.const(0, x.type.dtype), [1 if i == axis else n for i, n in enumerate(shape(x))])
    order = np.full(size, count)
    order[start + step * np.arange(count)] = np.arange(count)
    return w.gather(w.cat([x, zero], axis), order, axis)
