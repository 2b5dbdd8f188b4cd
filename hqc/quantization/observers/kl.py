"""The clip whose quantized distribution diverges least from the data's (Kullback-Leibler)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.checked import numeric
from hqc.errors import QConfigError
from hqc.quantization.observers.histogram import BINS, SearchingObserver

F64 = npt.NDArray[np.float64]
IMPOSSIBLE = 1e-12
"""Probability of a bin that no quantized value falls into."""


@numeric
class KLObserver(SearchingObserver):
    """Tries clips on `bins` evenly spaced thresholds and takes the one with the smallest divergence; the widest wins ties."""

    def __init__(self, bins: int = 512, **options: Any) -> None:
        super().__init__(bins=bins, **options)
        if bins < 2 or BINS % bins:
            raise QConfigError(f"bins must be a divisor of {BINS} above 1, got {bins}")
        self.bins = bins

    @property
    def levels(self) -> int:
        """Of magnitudes; int16's are more than there are bins, so those of int8 stand for them."""
        return 1 << (min(self.bits, 8) - 1)

    def clips(self, histogram: F64, edges: F64, largest: float) -> F64:
        used, step = int(np.searchsorted(edges, largest, side="left")), BINS // self.bins
        stops = range(used - used % step, self.levels - 1, -step)
        return np.array([largest, *(float(edges[stop]) for stop in stops if edges[stop] < largest)])

    def costs(self, histogram: F64, edges: F64, clips: F64) -> F64:
        # Zeros are exact on every grid and would drown the rest (half of what follows a ReLU).
        weights = histogram.copy()
        weights[0] = min(weights[0], weights[1:].max(initial=0.0))
        if weights.sum() == 0.0:
            return np.zeros(len(clips))
        stops = np.ceil(clips / (edges[1] - edges[0]) - 1e-9).astype(int)
        return np.array([divergence(weights, max(int(stop), 1), self.levels) for stop in stops])


def divergence(weights: F64, stop: int, levels: int) -> float:
    """KL divergence, in nats, of the histogram of what is quantized from `weights`, the histogram of the data.

    Bins are grouped into `levels` up to bin `stop`; what lies beyond falls into the last bin before it. A level's mass is spread evenly
    over those of its bins that hold data. Where data is that no quantized value reaches, the divergence is large: clipping costs.
    """
    kept = np.zeros(stop)
    kept[: min(stop, len(weights))] = weights[:stop]
    kept[-1] += weights[stop:].sum()
    level_of = np.minimum(np.arange(stop) * levels // stop, levels - 1)
    nonzero = kept > 0
    mass = np.bincount(level_of, kept, levels)
    count = np.bincount(level_of, nonzero, levels)
    q = np.zeros(max(len(weights), stop))
    q[:stop] = np.where(nonzero, (mass / np.maximum(count, 1.0))[level_of], 0.0)
    present = weights > 0
    p = weights[present] / weights.sum()
    return float(np.sum(p * np.log(p / np.maximum(q[: len(weights)][present] / q.sum(), IMPOSSIBLE))))
