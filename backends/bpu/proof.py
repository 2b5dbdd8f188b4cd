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


def _term_bounds(weight: npt.NDArray[np.int64], x: Range) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    a, b = weight * x[0], weight * x[1]
    return np.minimum(np.minimum(a, b), 0), np.maximum(np.maximum(a, b), 0)


def sum_bounds(weight: npt.NDArray[np.integer], x: Range) -> SumBounds:
    """Bounds of partial sums over axis 0 of `weight[K, O]` times inputs in `x`."""
    low, high = _term_bounds(weight.astype(np.int64), x)
    return SumBounds(low.sum(axis=0), high.sum(axis=0))


def exact_chunks(weight: npt.NDArray[np.integer], x: Range, limit: int = FLOAT32_EXACT) -> list[slice]:
    """Cut the reduction axis (0) of `weight[K, O]` into the fewest runs whose partial sums all stay within `limit`."""
    low, high = _term_bounds(weight.astype(np.int64), x)
    if max(-int(low.sum(axis=0).min(initial=0)), int(high.sum(axis=0).max(initial=0))) <= limit:
        return [slice(0, len(weight))]
    reach_low = np.vstack([np.zeros_like(low[:1]), low.cumsum(axis=0)])
    reach_high = np.vstack([np.zeros_like(high[:1]), high.cumsum(axis=0)])
    chunks, start = [], 0
    while start < len(weight):
        # reach grows monotonically, so the last end within the limit is found by counting
        worst = np.maximum(reach_low[start] - reach_low[start + 1 :], reach_high[start + 1 :] - reach_high[start]).max(axis=1)
        length = max(1, int(np.count_nonzero(worst <= limit)))
        chunks.append(slice(start, start + length))
        start += length
    return chunks
