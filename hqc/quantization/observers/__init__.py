"""Observers: what a fake quant asks for the range of its tensor. One set, for calibration and for training."""

from hqc.quantization.observers.base import ObserverBase
from hqc.quantization.observers.fixed import FixedScaleObserver, NoopObserver
from hqc.quantization.observers.histogram import CalibObserver, HistogramObserver, MixObserver, MSEObserver, PercentileObserver
from hqc.quantization.observers.kl import KLObserver
from hqc.quantization.observers.minmax import MinMaxObserver, PerChannelMinMaxObserver
from hqc.quantization.observers.moving_average import MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
from hqc.quantization.observers.weights import PerChannelMSEObserver

__all__ = [
    "CalibObserver",
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
    "PerChannelMSEObserver",
    "PerChannelMinMaxObserver",
    "PercentileObserver",
]
