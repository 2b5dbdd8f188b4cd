"""Observers that work per tensor, or with `ch_axis` per channel: the second generation of the reference's.

Named as the reference names them: `MinMaxObserver` is here the moving average.
"""

from __future__ import annotations

from typing import Any, ClassVar

from hqc.quantization import observers as v1
from hqc.quantization.observers import FixedScaleObserver, ObserverBase

__all__ = [
    "ClipObserver",
    "ClipStdObserver",
    "FixedScaleObserver",
    "HistogramObserver",
    "KLObserver",
    "MSEObserver",
    "MinMaxObserver",
    "MixObserver",
    "ObserverBase",
    "PercentileObserver",
]


class _ByAxis:
    """Mixin: called with a `ch_axis` from 0, the class makes its sister that works per channel."""

    per_channel: ClassVar[type[ObserverBase]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.per_channel(*args, **kwargs) if kwargs.get("ch_axis", -1) >= 0 else object.__new__(cls)


class MinMaxObserver(_ByAxis, v1.MovingAverageMinMaxObserver):
    """Moving average of smallest and largest value."""

    per_channel = v1.MovingAveragePerChannelMinMaxObserver


class PercentileObserver(_ByAxis, v1.PercentileObserver):
    """So many percent of the magnitudes fit."""

    per_channel = v1.PerChannelPercentileObserver


class MSEObserver(_ByAxis, v1.MSEObserver):
    """The clip with the smallest squared error."""

    per_channel = v1.PerChannelMSEObserver


class HistogramObserver(_ByAxis, v1.MSEObserver):
    """The clip with the smallest squared error over the histogram."""

    per_channel = v1.PerChannelMSEObserver


class KLObserver(_ByAxis, v1.KLObserver):
    """The clip with the smallest divergence."""

    per_channel = v1.PerChannelKLObserver


class MixObserver(_ByAxis, v1.MixObserver):
    """The percentile with the smallest squared error."""

    per_channel = v1.PerChannelMixObserver


class ClipObserver(_ByAxis, v1.ClipObserver):
    """The range cut at given limits."""

    per_channel = v1.PerChannelClipObserver


class ClipStdObserver(_ByAxis, v1.ClipStdObserver):
    """So many standard deviations around the mean."""

    per_channel = v1.PerChannelClipStdObserver
