"""Weights per channel, each clipped as the histogram observers clip a tensor."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hqc.checked import numeric
from hqc.errors import QConfigError
from hqc.quantization.observers.histogram import HistogramObserver, MixObserver, PercentileObserver
from hqc.quantization.observers.kl import KLObserver
from hqc.quantization.observers.moving_average import MovingAveragePerChannelMinMaxObserver

_BINS = 512  # a channel of a weight has few values


@numeric
class _PerChannelHistogram(MovingAveragePerChannelMinMaxObserver):
    """The reach of each channel is what `chooser`, an observer per tensor, makes of that channel's histogram.

    `update_interval`: observe every n-th time only.
    """

    cheap = False

    def __init__(self, update_interval: int = 1, **options: Any) -> None:
        super().__init__(**options)
        if not isinstance(update_interval, int) or update_interval < 1:
            raise QConfigError(f"update_interval must be a whole number from 1, got {update_interval!r}")
        self.update_interval = update_interval
        self._turn = 0
        self.chooser: list[HistogramObserver] = []  # in a list: its buffers are not this observer's

    def _observe(self, x: Tensor) -> None:
        self._turn += 1
        if not self._seen or (self._turn - 1) % self.update_interval == 0:
            super()._observe(x)

    def _row_ranges(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        magnitudes = rows.detach().abs().double().cpu().numpy()
        reach = torch.tensor([self._reach(row) for row in magnitudes], dtype=torch.float32, device=rows.device)
        return -reach, reach

    def _reach(self, row: npt.NDArray[np.float64]) -> float:
        largest = float(row.max())
        if not 0.0 < largest < np.inf:
            return largest
        histogram, edges = np.histogram(row, _BINS, (0.0, largest))
        return min(self.chooser[0].clip(histogram.astype(np.float64), edges, largest), largest)


@numeric
class PerChannelPercentileObserver(_PerChannelHistogram):
    """Per channel: `percentile` % of the magnitudes fit."""

    def __init__(self, percentile: float = 99.99, **options: Any) -> None:
        super().__init__(**options)
        self.chooser.append(PercentileObserver(percentile, dtype=self.dtype))


@numeric
class PerChannelKLObserver(_PerChannelHistogram):
    """Per channel: the smallest divergence."""

    def __init__(self, bins: int = 512, **options: Any) -> None:
        super().__init__(**options)
        self.chooser.append(KLObserver(bins, dtype=self.dtype))


@numeric
class PerChannelMixObserver(_PerChannelHistogram):
    """Per channel: the percentile with the smallest squared error."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.chooser.append(MixObserver(dtype=self.dtype))
