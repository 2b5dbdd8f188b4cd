"""Requantization as one float32 line per channel, where that is proved to give the same bits.

The 32-bit formula `((q * M) + 2^(n-1)) >> n` of a middle value q is a staircase. `floor(q * slope + offset)` in float32 (one rounding
after the product, one after the sum) is a staircase too, and neither ever decreases. So they are equal everywhere between two points
when they agree at both ends and on either side of every step of the formula; with int8 results that is at most 512 points a
channel, all of which are tried here at compile time, with the very float32 operations of run time. `M / 2^n` is the slope that
works nearly always when the line runs half way between the steps' two sides; channels that it fails for try their neighbours, first
at the few points that decide most of them.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.arithmetic import RequantParams
from hqc.backends.bpu.ranges import Range

Array = npt.NDArray[Any]
_SLOPES = sorted(range(-8, 9), key=abs)  # neighbours, in units of the slope's last place
_OFFSETS = sorted(range(-4, 5), key=abs)  # and of 2^-18, half the last place of results near 128
_NEAREST = 8  # points on either side of a step that are tried before all others
_MOST_CHANNELS = 1 << 14  # of a layer with more, as of one that computes weights, the proof takes longer than it saves


def evaluate(q: Array, slope: Array, offset: Array, results: Range) -> Array:
    """The line's results for integers `q`, rounded as at run time."""
    values = q.astype(np.float32)
    np.multiply(values, slope, out=values)
    np.add(values, offset, out=values)
    return np.floor(np.clip(values, np.float32(results[0]), np.float32(results[1])))


def find_line(
    params: RequantParams, bounds: tuple[Array, Array], acc_range: Range, results: Range
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None:
    """Slopes and offsets per row of `params` with `floor(clip(q * slope + offset)) == clip(requantize(acc))`, `q = acc >> p`.

    `bounds`: per row the accumulators between which the 32-bit formula holds and beyond which the clipped result is constant.
    `acc_range`: what accumulators can be. None when some row has no such line, and for so many rows that finding them does not pay.
    """
    multiplier, pre_shift = params.multiplier, params.pre_shift
    if len(multiplier) > _MOST_CHANNELS:
        return None
    n = params.post_shift - pre_shift
    if (multiplier <= 0).any() or (n < 1).any() or (n > 30).any() or results[0] >= results[1]:
        return None
    half = np.int64(1) << (n - 1)
    low, high = bounds[0] >> pre_shift, bounds[1] >> pre_shift
    steps = np.arange(results[0] + 1, results[1] + 1, dtype=np.int64)[:, None] << n
    first = -((half - steps) // multiplier)  # the smallest q whose result reaches the step
    above, below = first * multiplier + half - steps, steps - (first - 1) * multiplier - half
    points = np.clip(np.concatenate([first, first - 1, low[None], high[None]]), low, high)
    expected = np.clip((points * multiplier + half) >> n, *results)
    ends = np.stack([np.minimum(acc_range[0] >> pre_shift, low), np.maximum(acc_range[1] >> pre_shift, high)])
    points, expected = np.concatenate([points, ends]), np.concatenate([expected, expected[-2:]])

    unit = np.ldexp(1.0, -n.astype(np.int32))
    middle = 0.5 + (below.min(axis=0) - above.min(axis=0)) * unit / 2
    slope = (multiplier * unit).astype(np.float32)
    offset = middle.astype(np.float32)

    def agree(points: Array, expected: Array, channels: Array) -> npt.NDArray[np.bool_]:
        found = evaluate(points, slope[channels], offset[channels], results) == expected
        return np.asarray(found.all(axis=0))

    points, expected = points.astype(np.float32), expected.astype(np.float32)  # as `evaluate` takes them
    every = np.arange(len(multiplier))
    failing = every[~agree(points, expected, every)]
    if not failing.size:
        return slope, offset
    near = _nearest_steps(above[:, failing], below[:, failing])
    few, few_expected = (np.take_along_axis(array[:, failing], near, axis=0) for array in (points, expected))
    for delta, shift in list(product(_SLOPES, _OFFSETS))[1:]:
        slope[failing] = multiplier[failing] * unit[failing] * (1 + delta * 2.0**-23)
        offset[failing] = middle[failing] + shift * 2.0**-18
        agrees = agree(few, few_expected, failing)
        agrees[agrees] = agree(points[:, failing[agrees]], expected[:, failing[agrees]], failing[agrees])
        if agrees.any():
            failing, few, few_expected = failing[~agrees], few[:, ~agrees], few_expected[:, ~agrees]
            if not failing.size:
                return slope, offset
    return None


def _nearest_steps(above: Array, below: Array) -> npt.NDArray[np.intp]:
    """Per channel the rows of the points where the formula is nearest to its steps: most lines that fail do there."""
    count = min(_NEAREST, len(above))
    sides = [np.argpartition(side, count - 1, axis=0)[:count] + row for side, row in ((above, 0), (below, len(above)))]
    return np.concatenate(sides)
