"""Compile-time proofs that floating-point products give the integers of docs/arithmetic.md.

A float32 sum of integer products is exact, in whatever order BLAS adds and with or without fused multiply-add, when no partial
sum can leave [-2^24, 2^24]. With inputs in [lo, hi] every partial sum of `sum(w * x)` lies between the sum of all terms'
minima (capped at 0) and the sum of all terms' maxima; these are the numbers checked here. float64 has the same rule at 2^53.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hqc.backends.bpu.ranges import Range

FLOAT32_EXACT = 1 << 24
FLOAT64_EXACT = 1 << 53


@dataclass(frozen=True)
class SumBounds:
    """Bounds per output channel that no partial sum leaves; int64 arrays."""

    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]

    @property
    def range(self) -> Range:
        return int(self.low.min(initial=0)), int(self.high.max(initial=0))

    def within(self, limit: int) -> bool:
        low, high = self.range
        return -limit <= low and high <= limit


def _bounds(positive: npt.NDArray[np.int64], negative: npt.NDArray[np.int64], x: Range) -> SumBounds:
    """Bounds from the sums of positive and of negative weights; a term that cannot help an extreme is left out of the sum."""
    low, high = min(x[0], 0), max(x[1], 0)
    return SumBounds(positive * low + negative * high, positive * high + negative * low)


def sum_bounds(weight: npt.NDArray[np.integer], x: Range) -> SumBounds:
    """Bounds of partial sums over axis 0 of `weight[K, O]` times inputs in `x`."""
    positive = np.maximum(weight, 0).sum(axis=0, dtype=np.int64)
    return _bounds(positive, weight.sum(axis=0, dtype=np.int64) - positive, x)


def exact_chunks(weight: npt.NDArray[np.integer], x: Range, limit: int = FLOAT32_EXACT) -> list[slice]:
    """Cut the reduction axis (0) of `weight[K, O]` into the fewest runs whose partial sums all stay within `limit`."""
    if sum_bounds(weight, x).within(limit):
        return [slice(0, len(weight))]
    positive = np.maximum(weight, 0).cumsum(axis=0, dtype=np.int64)
    reach = _bounds(positive, weight.cumsum(axis=0, dtype=np.int64) - positive, x)
    reach_low, reach_high = (np.vstack([np.zeros_like(array[:1]), array]) for array in (reach.low, reach.high))
    chunks, start = [], 0
    while start < len(weight):
        # reach grows monotonically, so the last end within the limit is found by counting
        worst = np.maximum(reach_low[start] - reach_low[start + 1 :], reach_high[start + 1 :] - reach_high[start]).max(axis=1)
        length = max(1, int(np.count_nonzero(worst <= limit)))
        chunks.append(slice(start, start + length))
        start += length
    return chunks
