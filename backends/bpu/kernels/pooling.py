"""Pooling. Windows are separable: rows are combined first (long contiguous runs), then columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc import arithmetic
from hqc.backends.bpu.epilogue import Epilogue, parameters, requantize_exactly
from hqc.backends.bpu.kernels import (
    Array,
    KernelContext,
    Run,
    channels_last,
    constant,
    kernel,
    operand,
    shape_of,
)
from hqc.backends.bpu.ranges import Range
from hqc.ir import Node
from hqc.ir.ops._windows import adaptive_bounds

_ROW_BYTES = 1 << 17  # input bytes under a tile's windows


class Windows:
    """Sliding windows of `[N,H,W,C]`, combined by a ufunc (maximum or add), `fill` outside the input."""

    def __init__(self, node: Node, context: KernelContext, combine: np.ufunc, fill: int, dtype: npt.DTypeLike) -> None:
        attributes = node.attributes
        self.kernel, self.stride = attributes["kernel"], attributes["stride"]
        self.dilation = attributes.get("dilation", (1, 1))
        self.top, self.left = attributes["padding"][:2]
        self.combine, self.fill, self.dtype = combine, fill, np.dtype(dtype)
        self.workers = context.workers
        _, channels, self.height, self.width = shape_of(operand(node, 0))
        count, _, self.rows, self.columns = shape_of(node.result)
        self.channels = channels
        # As far as the last window reaches: in ceil mode that may lie beyond the padding.
        self.padded_width = (self.columns - 1) * self.stride[1] + self.dilation[1] * (self.kernel[1] - 1) + 1
        bytes_per_row = self.padded_width * channels * self.dtype.itemsize * self.stride[0]
        step = max(1, min(_ROW_BYTES // max(1, bytes_per_row), -(-self.rows // self.workers.threads)))
        self.tiles = [(n, r, min(r + step, self.rows)) for n in range(count) for r in range(0, self.rows, step)]

    def __call__(self, x: Array, finish: Callable[[Array, int, int, int], None]) -> None:
        """Call `finish(combined[rows, columns, C], n, r0, r1)` for every tile; `combined` is the callee's to overwrite."""
        scratch = self.workers.scratch

        def work(tile: tuple[int, int, int]) -> None:
            n, r0, r1 = tile
            image = self._padded(
                x[n], r0, r1, scratch.take("image", (self._rows_seen(r1 - r0), self.padded_width, self.channels), self.dtype)
            )
            tall = scratch.take("tall", (r1 - r0, self.padded_width, self.channels), self.dtype)
            self._fold(image, tall, self.kernel[0], self.dilation[0], self.stride[0], 0)
            result = scratch.take("folded", (r1 - r0, self.columns, self.channels), self.dtype)
            self._fold(tall, result, self.kernel[1], self.dilation[1], self.stride[1], 1)
            finish(result, n, r0, r1)

        self.workers.map(work, self.tiles)

    def _rows_seen(self, rows: int) -> int:
        span: int = (rows - 1) * self.stride[0] + self.dilation[0] * (self.kernel[0] - 1) + 1
        return span

    def _padded(self, x: Array, r0: int, r1: int, image: Array) -> Array:
        first = r0 * self.stride[0] - self.top
        low = min(max(first, 0), self.height)
        high = max(low, min(first + len(image), self.height))
        right = min(self.width, self.padded_width - self.left)
        if low > first or high < first + len(image) or self.left or self.left + right < self.padded_width:
            image[...] = self.fill
        np.copyto(image[low - first : high - first, self.left : self.left + right], x[low:high, :right])
        return image

    def _fold(self, source: Array, target: Array, size: int, dilation: int, stride: int, axis: int) -> None:
        span = (target.shape[axis] - 1) * stride + 1
        for tap in range(size):
            where = slice(tap * dilation, tap * dilation + span, stride)
            seen = source[where] if axis == 0 else source[:, where]
            if tap == 0:
                np.copyto(target, seen)
            else:
                self.combine(target, seen, out=target)


@kernel("max_pool2d")
def max_pool2d(node: Node, context: KernelContext) -> Run:
    dtype = node.result.type.dtype
    windows = Windows(node, context, np.maximum, dtype.qmin, dtype.numpy)
    n, c, h, w = shape_of(node.result)

    def run(operands: Sequence[Any]) -> Array:
        out = np.empty((n, h, w, c), dtype.numpy)

        def finish(result: Array, image: int, r0: int, r1: int) -> None:
            out[image, r0:r1] = result

        windows(operands[0].transpose(0, 2, 3, 1), finish)
        return out.transpose(0, 3, 1, 2)

    return run


def _sum_dtype(count: int, bounds: Range) -> np.dtype[Any]:
    largest = count * max(-bounds[0], bounds[1], 1)
    return np.dtype(np.int16 if largest < 2**15 else np.int32 if largest < 2**31 else np.int64)


@kernel("int_avg_pool2d")
def int_avg_pool2d(node: Node, context: KernelContext) -> Run:
    count = node.attributes["kernel"][0] * node.attributes["kernel"][1]
    low, high = context.ranges.of(operand(node, 0))
    windows = Windows(node, context, np.add, 0, _sum_dtype(count, (low, high)))
    finish = _finisher(node, context, (count * min(low, 0), count * max(high, 0)))
    n, c, h, w = shape_of(node.result)
    dtype = node.result.type.dtype.numpy

    def run(operands: Sequence[Any]) -> Array:
        out = np.empty((n, h, w, c), dtype)
        windows(
            operands[0].transpose(0, 2, 3, 1),
            lambda sums, image, r0, r1: finish(sums, out[image, r0:r1], r0, r1),
        )
        return out.transpose(0, 3, 1, 2)

    return run


_Finish = Callable[[Array, Array, int, int], None]


def _finisher(node: Node, context: KernelContext, sum_range: Range) -> _Finish:
    """How window sums `[rows, W, C]` of output rows r0:r1 become results."""
    gain = node.attributes.get("gain", 0)
    requant = None if gain else constant(node, "requant")
    scratch = context.workers.scratch
    if requant is not None and requant.ndim == 3:  # parameters per output position

        def per_position(sums: Array, out: Array, r0: int, r1: int) -> None:
            m, p, s = requant[:, r0:r1, :, None]
            params = arithmetic.RequantParams(m, p, s, node.attributes["mode"])
            np.copyto(out, requantize_exactly(sums, params, node.attributes))

        return per_position
    if gain:

        def gained(sums: Array, out: Array, r0: int, r1: int) -> None:
            scaled = (sums.astype(np.int32) * np.int32(gain)) >> 9
            np.copyto(out, requantize_exactly(scaled, parameters(None, "clip"), node.attributes))

        return gained
    epilogue = Epilogue(requant, node.attributes, channels=1, acc_range=sum_range)

    def uniform(sums: Array, out: Array, r0: int, r1: int) -> None:
        wide = scratch.take("sums", (sums.size, 1), np.int32 if sums.dtype.itemsize <= 4 else np.int64)
        np.copyto(wide, sums.reshape(-1, 1))
        epilogue.apply(wide, out.reshape(-1, 1), scratch)

    return uniform


@kernel("int_adaptive_avg_pool2d")
def int_adaptive_avg_pool2d(node: Node, context: KernelContext) -> Run:
    _, _, height, width = shape_of(operand(node, 0))
    n, c, h, w = shape_of(node.result)
    low, high = context.ranges.of(operand(node, 0))
    most = height * width
    finish = _finisher(node, context, (most * min(low, 0), most * max(high, 0)))
    dtype = _sum_dtype(most, (low, high))
    dtype = np.dtype(np.int32) if dtype.itemsize < 4 else dtype
    (top, bottom), (left, right) = adaptive_bounds(height, h), adaptive_bounds(width, w)
    out_dtype = node.result.type.dtype.numpy

    def sums_of(x: Array) -> Array:
        if (h, w) == (1, 1):
            return np.asarray(x.sum(axis=(1, 2), dtype=dtype, keepdims=True))
        # differences of running sums; int64, because running sums cover more than one window
        rows = np.zeros((n, height + 1, width, c), np.int64)
        np.cumsum(x, axis=1, dtype=np.int64, out=rows[:, 1:])
        tall = rows[:, bottom] - rows[:, top]
        columns = np.zeros((n, h, width + 1, c), np.int64)
        np.cumsum(tall, axis=2, out=columns[:, :, 1:])
        return np.asarray(columns[:, :, right] - columns[:, :, left], dtype)

    def run(operands: Sequence[Any]) -> Array:
        sums = np.ascontiguousarray(sums_of(operands[0].transpose(0, 2, 3, 1)))
        out = np.empty((n, h, w, c), out_dtype)
        for image in range(n):
            finish(sums[image], out[image], 0, h)
        return out.transpose(0, 3, 1, 2)

    return run


@kernel("adaptive_max_pool2d")
def adaptive_max_pool2d(node: Node, context: KernelContext) -> Run:
    _, _, height, width = shape_of(operand(node, 0))
    h, w = node.attributes["output_size"]

    def indices(size: int, count: int) -> Array:
        """`[count, longest window]` positions; shorter windows repeat their last one."""
        start, end = adaptive_bounds(size, count)
        return np.minimum(start[:, None] + np.arange((end - start).max()), end[:, None] - 1)

    rows, columns = indices(height, h), indices(width, w)

    def run(operands: Sequence[Any]) -> Array:
        x = channels_last(operands[0])
        tall = x[:, rows].max(axis=2)
        return np.asarray(tall[:, :, columns].max(axis=3)).transpose(0, 3, 1, 2)

    return run
