"""Sliding windows over `[N,C,H,W]` arrays, for what convolutions and pools compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.ir.op import Array
from hqc.ir.ops._shapes import window_size


def windows(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    *,
    ceil_mode: bool = False,
    fill: float = 0.0,
) -> Array:
    """View `[N,C,Ho,Wo,kh,kw]` of the windows; `padding` is top, left, bottom, right, and what lies outside reads `fill`."""
    top, left, bottom, right = padding
    counts = [
        window_size(x.shape[2 + i], kernel[i], stride[i], pads, dilation[i], ceil_mode) or 0
        for i, pads in enumerate(((top, bottom), (left, right)))
    ]
    spans = [(counts[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    ends = [max(pad, spans[i] - x.shape[2 + i] - begin) for i, (begin, pad) in enumerate(((top, bottom), (left, right)))]
    padded = np.pad(x, ((0, 0), (0, 0), (top, ends[0]), (left, ends[1])), constant_values=fill)
    rows = dilation[0] * (kernel[0] - 1) + 1
    columns = dilation[1] * (kernel[1] - 1) + 1
    view = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), axis=(2, 3))
    found: Array = view[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
    return found[:, :, : counts[0], : counts[1]]


def adaptive_bounds(size: int, count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Start and end of every adaptive window: `floor(i * size / count)`, `ceil((i + 1) * size / count)`."""
    index = np.arange(count, dtype=np.intp)
    return index * size // count, -((-(index + 1) * size) // count)


def over_adaptive_windows(x: Array, output_size: Sequence[int], reduce: Any) -> Array:
    """`reduce` (`np.mean`, `np.max`) of every adaptive window."""
    rows, columns = adaptive_bounds(x.shape[2], output_size[0]), adaptive_bounds(x.shape[3], output_size[1])
    tall = np.stack([reduce(x[:, :, a:b], axis=2) for a, b in zip(*rows, strict=True)], axis=2)
    return np.stack([reduce(tall[:, :, :, a:b], axis=3) for a, b in zip(*columns, strict=True)], axis=3)
