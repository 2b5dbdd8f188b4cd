"""Observers: what a fake quant asks for the range of its tensor. One set, for calibration and for training."""

from hqc.quantization.observers.base import ObserverBase
from hqc.quantization.observers.clipped import (
    ClipObserver,
    ClipStdObserver,
    PerChannelClipObserver,
    PerChannelClipStdObserver,
)
from hqc.quantization.observers.fixed import FixedScaleObserver, NoopObserver
from hqc.quantization.observers.histogram import CalibObserver, HistogramObserver, MixObserver, MSEObserver, PercentileObserver
from hqc.quantization.observers.kl import KLObserver
from hqc.quantization.observers.minmax import MinMaxObserver, PerChannelMinMaxObserver
from hqc.quantization.observers.moving_average import MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
from hqc.quantization.observers.per_channel import (
    PerChannelKLObserver,
    PerChannelMixObserver,
    PerChannelPercentileObserver,
)
from hqc.quantization.observers.weights import PerChannelMSEObserver

__all__ = [
    "CalibObserver",
    "ClipObserver",
    "ClipStdObserver",
    "FixedScaleObserver",
    "HistogramObserver",
    "KLObserver",
    "MSEObserver",
    "MinMaxObserver",
    "MixObserver",
    "MovingAverageMinMaxObserver",
    "MovingAveragePerChannelMinMaxObserver",
    "NoopObserver",
    "ObserverBase",
    "PerChannelClipObserver",
    "PerChannelClipStdObserver",
    "PerChannelKLObserver",
    "PerChannelMSEObserver",
    "PerChannelMinMaxObserver",
    "PerChannelMixObserver",
    "PerChannelPercentileObserver",
    "PercentileObserver",
]
