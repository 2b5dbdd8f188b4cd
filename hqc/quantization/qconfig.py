"""QConfigs: how the activations and the weights of a layer are fake-quantized.

A qconfig is independent of the march; prepare adds the march's rounding and scale rule when it builds the fake quants.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from hqc.errors import QConfigError
from hqc.quantization.calib_fake_quantize import CalibFakeQuantize
from hqc.quantization.dtypes import dtype_name
from hqc.quantization.factory import Factory
from hqc.quantization.fake_quantize import FakeQuantize, FakeQuantizeBase
from hqc.quantization.lsq import LearnedScaleFakeQuantize
from hqc.quantization.observers import (
    CalibObserver,
    FixedScaleObserver,
    KLObserver,
    MinMaxObserver,
    MixObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    MSEObserver,
    NoopObserver,
    ObserverBase,
    PercentileObserver,
    PerChannelMinMaxObserver,
    PerChannelMSEObserver,
)


class QConfig(NamedTuple):
    """`activation`: factory of the result's fake quant; None for a high-precision (int32) output. `weight`: of the weight's."""

    activation: Any
    weight: Any


FAKE_QUANTS: dict[str, type[FakeQuantizeBase]] = {
    "fake_quant": FakeQuantize,
    "lsq": LearnedScaleFakeQuantize,
    "calib": CalibFakeQuantize,
}
ACTIVATION_OBSERVERS: dict[str, type[ObserverBase]] = {
    "min_max": MovingAverageMinMaxObserver,
    "absolute_min_max": MinMaxObserver,
    "fixed_scale": FixedScaleObserver,
    "percentile": PercentileObserver,
    "kl": KLObserver,
    "mse": MSEObserver,
    "mix": MixObserver,
    "calib": CalibObserver,
}
WEIGHT_OBSERVERS: dict[str, type[ObserverBase]] = {
    "min_max": MovingAveragePerChannelMinMaxObserver,
    "absolute_min_max": PerChannelMinMaxObserver,
    "mse": PerChannelMSEObserver,
    "noop": NoopObserver,
}
_WEIGHT_ARGUMENTS = {"qscheme": torch.per_channel_symmetric, "ch_axis": 0}


def get_default_qconfig(
    activation_fake_quant: str | None = "fake_quant",
    weight_fake_quant: str | None = "fake_quant",
    activation_observer: str = "min_max",
    weight_observer: str = "min_max",
    activation_qkwargs: dict[str, Any] | None = None,
    weight_qkwargs: dict[str, Any] | None = None,
) -> QConfig:
    """A qconfig from the names of its parts; `*_qkwargs` go to the fake quants and their observers.

    A fake quant of None leaves that tensor unquantized (activation: high-precision output).
    """
    return QConfig(
        _entry("activation", activation_fake_quant, activation_observer, ACTIVATION_OBSERVERS, {}, activation_qkwargs),
        _entry("weight", weight_fake_quant, weight_observer, WEIGHT_OBSERVERS, _WEIGHT_ARGUMENTS, weight_qkwargs),
    )


def _entry(
    what: str,
    fake_quant: str | None,
    observer: str,
    observers: dict[str, type[ObserverBase]],
    defaults: dict[str, Any],
    qkwargs: dict[str, Any] | None,
) -> Factory | None:
    if fake_quant is None:
        return None
    chosen = _supported(f"{what}_fake_quant", fake_quant, FAKE_QUANTS)
    watcher = _supported(f"{what}_observer", observer, observers)
    arguments = {"observer": watcher, **defaults, **(qkwargs or {})}
    arguments["dtype"] = dtype_name(arguments.get("dtype", "qint8"))
    factory: Factory = chosen.with_args(**arguments)
    return factory


def _supported(argument: str, value: str, known: dict[str, Any]) -> Any:
    if value not in known:
        raise QConfigError(f"{argument}={value!r} is not supported; supported: {', '.join(known)}")
    return known[value]


def _weight_kwargs(weight_dtype: Any) -> dict[str, Any]:
    if dtype_name(weight_dtype) != "qint8":
        raise QConfigError(f"weight_dtype={weight_dtype!r} is not supported; supported: qint8")
    return {"dtype": "qint8"}


def get_default_qat_qconfig(dtype: Any = "qint8", weight_dtype: Any = "qint8") -> QConfig:
    """Statistics decide: activations per tensor (moving average), weights per output channel. `dtype` may be "qint16"."""
    return get_default_qconfig(activation_qkwargs={"dtype": dtype}, weight_qkwargs=_weight_kwargs(weight_dtype))


def get_default_qat_out_qconfig(weight_dtype: Any = "qint8") -> QConfig:
    """For the convolution or linear layer that ends a BPU segment: its int32 result leaves at high precision."""
    return get_default_qconfig(activation_fake_quant=None, weight_qkwargs=_weight_kwargs(weight_dtype))


def get_default_calib_qconfig(dtype: Any = "qint8", calib_qkwargs: dict[str, Any] | None = None) -> QConfig:
    """For calibration models: activations feed a histogram, weights nothing. `calib_qkwargs` go to the observer."""
    return get_default_qconfig("calib", "calib", "calib", "noop", activation_qkwargs={"dtype": dtype, **(calib_qkwargs or {})})


def get_default_lsq_qconfig(dtype: Any = "qint8", weight_dtype: Any = "qint8") -> QConfig:
    """Scales are learned (LSQ)."""
    return get_default_qconfig("lsq", "lsq", activation_qkwargs={"dtype": dtype}, weight_qkwargs=_weight_kwargs(weight_dtype))


default_qat_8bit_fake_quant_qconfig = get_default_qat_qconfig()
default_qat_out_8bit_fake_quant_qconfig = get_default_qat_out_qconfig()
default_calib_8bit_fake_quant_qconfig = get_default_calib_qconfig()
default_qat_8bit_lsq_quant_qconfig = get_default_lsq_qconfig()
