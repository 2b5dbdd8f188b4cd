"""Exponential moving averages of the range: the first batch sets it, then `m += c (x - m)`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hqc.checked import numeric
from hqc.quantization.observers.base import checked_constant
from hqc.quantization.observers.minmax import MinMaxObserver, PerChannelMinMaxObserver


class _MovingAverage(MinMaxObserver):
    averaging_constant: float

    def _set_constant(self, averaging_constant: float) -> None:
        self.averaging_constant = checked_constant(averaging_constant)

    def _observe(self, x: Tensor) -> None:
        if self.averaging_constant > 0.0 or not self._seen:
            super()._observe(x)

    def _update(self, low: Tensor, high: Tensor) -> None:
        self.min_val.lerp_(low, self.averaging_constant)
        self.max_val.lerp_(high, self.averaging_constant)


@numeric
class MovingAverageMinMaxObserver(_MovingAverage):
    """Per tensor, for activations. `averaging_constant` 0 freezes the range that calibration found."""

    def __init__(self, averaging_constant: float = 0.01, **options: Any) -> None:
        super().__init__(**options)
        self._set_constant(averaging_constant)


@numeric
class MovingAveragePerChannelMinMaxObserver(_MovingAverage, PerChannelMinMaxObserver):
    """Per channel, for weights: by default the range of the weights as they are."""

    def __init__(self, averaging_constant: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self._set_constant(averaging_constant)
