"""Compile-time proofs that floating-point products give the integers of docs/arithmetic.md.

A float32 sum of integer products is exact, in whatever order BLAS adds and with or without fused multiply-add, when no partial
sum can leave [-2^24, 2^24]. With inputs in [lo, hi] every partial sum of `sum(w * x)` lies between the sum of all terms'
minima (capped at 0) and the sum of all terms' maxima; these are the numbers checked here. float64 has the same rule at 2^53.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hqc.backends.bpu.ranges import Range

FLOAT32_EXACT = 1 << 24
FLOAT64_EXACT = 1 << 53
_BLOCK = 1 << 18  # elements of the int64 blocks that proofs look at: 2 MiB each


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


def _row_blocks(weight: npt.NDArray[np.integer], start: int = 0) -> Iterator[tuple[int, npt.NDArray[np.integer]]]:
    """Rows of `weight[K, O]` from `start` in blocks of about `_BLOCK` elements: proofs never copy a whole weight."""
    step = max(1, _BLOCK // max(1, weight.shape[1]))
    for first in range(start, len(weight), step):
        yield first, weight[first : first + step]


def sum_bounds(weight: npt.NDArray[np.integer], x: Range) -> SumBounds:
    """Bounds of partial sums over axis 0 of `weight[K, O]` times inputs in `x`."""
    positive, total = np.zeros((2, weight.shape[1]), np.int64)
    for _, block in _row_blocks(weight):
        positive += np.maximum(block, 0).sum(axis=0, dtype=np.int64)
        total += block.sum(axis=0, dtype=np.int64)
    return _bounds(positive, total - positive, x)


def exact_chunks(weight: npt.NDArray[np.integer], x: Range, limit: int = FLOAT32_EXACT) -> list[slice]:
    """Cut the reduction axis (0) of `weight[K, O]` into the fewest runs whose partial sums all stay within `limit`."""
    chunks, start = [], 0
    while start < len(weight):
        end = _chunk_end(weight, x, limit, start)
        chunks.append(slice(start, end))
        start = end
    return chunks or [slice(0, 0)]


def _chunk_end(weight: npt.NDArray[np.integer], x: Range, limit: int, start: int) -> int:
    """The end of the longest run from `start`, of one row at least, whose partial sums stay within `limit`."""
    positive, total = np.zeros((2, weight.shape[1]), np.int64)
    for first, block in _row_blocks(weight, start):
        rising = np.maximum(block, 0).cumsum(axis=0, dtype=np.int64)
        rising += positive
        running = block.cumsum(axis=0, dtype=np.int64)
        running += total
        reach = _bounds(rising, running - rising, x)
        # the reach grows with every row, so the rows within the limit are the first ones
        within = int(np.count_nonzero(np.maximum(-reach.low, reach.high).max(axis=1) <= limit))
        if within < len(block):
            return max(start + 1, first + within)
        positive, total = rising[-1], running[-1]
    return len(weight)
