"""The clip whose quantized distribution diverges least from the data's (Kullback-Leibler)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.errors import QConfigError
from hqc.quantization.observers.histogram import BINS, HistogramObserver


class KLObserver(HistogramObserver):
    """Tries clips on `bins` evenly spaced thresholds and takes the one with the smallest divergence; the widest wins ties."""

    def __init__(self, bins: int = 512, **options: Any) -> None:
        super().__init__(**options)
        if bins < 2 or BINS % bins:
            raise QConfigError(f"bins must be a divisor of {BINS} above 1, got {bins}")
        self.bins = bins

    def clip(self, histogram: npt.NDArray[np.float64], edges: npt.NDArray[np.float64], largest: float) -> float:
        levels = 1 << (min(self.bits, 8) - 1)
        used = int(np.searchsorted(edges, largest, side="left"))
        step = BINS // self.bins
        # Zeros are exact on every grid and would drown the rest (half of what follows a ReLU).
        weights = histogram.copy()
        weights[0] = min(weights[0], weights[1:].max(initial=0.0))
        if weights.sum() == 0.0:
            return largest
        candidates = [used, *range(used - used % step, levels - 1, -step)]
        divergences = [divergence(weights[:used], stop, levels) for stop in candidates]
        best = candidates[int(np.argmin(divergences))]
        return largest if best == used else float(edges[best])


def divergence(weights: npt.NDArray[np.float64], stop: int, levels: int) -> float:
    """KL divergence, in nats, of the histogram clipped at bin `stop` from the same with its bins grouped into `levels`.

    The clipped tail is added to the last kept bin of the reference distribution, not of the quantized one.
    """
    kept = weights[:stop]
    reference = kept.copy()
    reference[-1] += weights[stop:].sum()
    level_of = np.minimum(np.arange(stop) * levels // stop, levels - 1)
    nonzero = kept > 0
    mass = np.bincount(level_of, kept, levels)
    count = np.bincount(level_of, nonzero, levels)
    quantized = np.where(nonzero, (mass / np.maximum(count, 1.0))[level_of], 0.0)
    if quantized.sum() == 0.0:
        return np.inf
    p, q = reference / reference.sum(), quantized / quantized.sum()
    present = p > 0
    return float(np.sum(p[present] * np.log(p[present] / np.maximum(q[present], 1e-12))))
