"""Sliding windows over `[N,C,H,W]` arrays, and volumes, for what convolutions and pools compute."""

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
    dilation: Sequence[int] | None = None,
    *,
    ceil_mode: bool = False,
    fill: float = 0.0,
) -> Array:
    """View `[N,C,Ho,Wo,kh,kw]` of the windows; `padding` is top, left, bottom, right, and what lies outside reads `fill`."""
    axes = len(kernel)
    apart = dilation or (1,) * axes
    pads = list(zip(padding[:axes], padding[axes:], strict=True))
    counts = [window_size(x.shape[2 + i], kernel[i], stride[i], pads[i], apart[i], ceil_mode) or 0 for i in range(axes)]
    reach = [apart[i] * (kernel[i] - 1) + 1 for i in range(axes)]
    amounts: list[tuple[int, int]] = [(0, 0), (0, 0)]
    for i, (begin, end) in enumerate(pads):
        amounts.append((begin, max(end, (counts[i] - 1) * stride[i] + reach[i] - x.shape[2 + i] - begin)))
    padded = np.pad(x, amounts, constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + axes)))
    whole = (slice(None), slice(None))
    found: Array = view[(*whole, *(slice(None, None, step) for step in (*stride, *apart)))]
    return found[(*whole, *map(slice, counts))]


def adaptive_bounds(size: int, count: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Start and end of every adaptive window: `floor(i * size / count)`, `ceil((i + 1) * size / count)`."""
    index = np.arange(count, dtype=np.intp)
    return index * size // count, -((-(index + 1) * size) // count)


def over_adaptive_windows(x: Array, output_size: Sequence[int], reduce: Any) -> Array:
    """`reduce` (`np.mean`, `np.max`) of every adaptive window."""
    rows, columns = adaptive_bounds(x.shape[2], output_size[0]), adaptive_bounds(x.shape[3], output_size[1])
    tall = np.stack([reduce(x[:, :, a:b], axis=2) for a, b in zip(*rows, strict=True)], axis=2)
    return np.stack([reduce(tall[:, :, :, a:b], axis=3) for a, b in zip(*columns, strict=True)], axis=3)
