"""Moving averages of a range that leaves outliers out: limits that the user gives, or so many standard deviations."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hqc.checked import numeric
from hqc.errors import QConfigError
from hqc.quantization.observers.moving_average import MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver


class _Limited:
    """Mixin: the range of the data, cut at `xmin` and `xmax`."""

    xmin: float
    xmax: float

    def _set_limits(self, xmin: float, xmax: float) -> None:
        if not xmin <= 0.0 <= xmax or xmin == xmax:
            raise QConfigError(f"the limits of a clip observer must enclose 0, got xmin={xmin}, xmax={xmax}")
        self.xmin, self.xmax = float(xmin), float(xmax)

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = super()._range(x)  # type: ignore[misc]
        return low.clamp(min=self.xmin), high.clamp(max=self.xmax)

    def _row_ranges(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        low, high = super()._row_ranges(rows)  # type: ignore[misc]
        return low.clamp(min=self.xmin), high.clamp(max=self.xmax)


@numeric
class ClipObserver(_Limited, MovingAverageMinMaxObserver):
    """Per tensor; values outside [`xmin`, `xmax`] saturate."""

    def __init__(self, xmin: float = -1.0, xmax: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self._set_limits(xmin, xmax)


@numeric
class PerChannelClipObserver(_Limited, MovingAveragePerChannelMinMaxObserver):
    """Per channel; values outside [`xmin`, `xmax`] saturate."""

    def __init__(self, xmin: float = -1.0, xmax: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self._set_limits(xmin, xmax)


class _Deviations:
    """Mixin: mean - / + `std_scale` standard deviations, where that lies inside the range of the data."""

    std_scale: float

    def _set_scale(self, std_scale: float) -> None:
        if not std_scale > 0.0:
            raise QConfigError(f"std_scale must be positive, got {std_scale}")
        self.std_scale = float(std_scale)

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._row_ranges(x.reshape(1, -1))

    def _row_ranges(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        mean, reach = rows.mean(1), self.std_scale * rows.std(1, correction=0)
        return (mean - reach).maximum(rows.amin(1)), (mean + reach).minimum(rows.amax(1))


@numeric
class ClipStdObserver(_Deviations, MovingAverageMinMaxObserver):
    """Per tensor: `std_scale` standard deviations around the mean."""

    def __init__(self, std_scale: float = 3.0, **options: Any) -> None:
        super().__init__(**options)
        self._set_scale(std_scale)


@numeric
class PerChannelClipStdObserver(_Deviations, MovingAveragePerChannelMinMaxObserver):
    """Per channel: `std_scale` standard deviations around the mean."""

    def __init__(self, std_scale: float = 3.0, **options: Any) -> None:
        super().__init__(**options)
        self._set_scale(std_scale)
