"""QConfigs: how the activations and the weights of a layer are fake-quantized.

A qconfig is independent of the march; prepare adds the march's rounding and scale rule when it builds the fake quants.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from hqc.checked import checked
from hqc.errors import QConfigError
from hqc.quantization.calib_fake_quantize import CalibFakeQuantize
from hqc.quantization.dtypes import dtype_name
from hqc.quantization.factory import Factory
from hqc.quantization.fake_quantize import FakeQuantize, FakeQuantizeBase
from hqc.quantization.lsq import LearnedScaleFakeQuantize, PACTFakeQuantize
from hqc.quantization.observers import (
    CalibObserver,
    ClipObserver,
    ClipStdObserver,
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
    PerChannelClipObserver,
    PerChannelClipStdObserver,
    PerChannelKLObserver,
    PerChannelMinMaxObserver,
    PerChannelMixObserver,
    PerChannelMSEObserver,
    PerChannelPercentileObserver,
)


class QConfig(NamedTuple):
    """`activation`: factory of the result's fake quant; None for a high-precision (int32) output. `weight`: of the weight's."""

    activation: Any
    weight: Any


FAKE_QUANTS: dict[str, type[FakeQuantizeBase]] = {
    "fake_quant": FakeQuantize,
    "lsq": LearnedScaleFakeQuantize,
    "pact": PACTFakeQuantize,
    "calib": CalibFakeQuantize,
}
ACTIVATION_OBSERVERS: dict[str, type[ObserverBase]] = {
    "min_max": MovingAverageMinMaxObserver,
    "absolute_min_max": MinMaxObserver,
    "fixed_scale": FixedScaleObserver,
    "clip": ClipObserver,
    "clip_std": ClipStdObserver,
    "percentile": PercentileObserver,
    "kl": KLObserver,
    "mse": MSEObserver,
    "mix": MixObserver,
    "calib": CalibObserver,
}
WEIGHT_OBSERVERS: dict[str, type[ObserverBase]] = {
    "min_max": MovingAveragePerChannelMinMaxObserver,
    "absolute_min_max": PerChannelMinMaxObserver,
    "fixed_scale": FixedScaleObserver,
    "clip": PerChannelClipObserver,
    "clip_std": PerChannelClipStdObserver,
    "percentile": PerChannelPercentileObserver,
    "kl": PerChannelKLObserver,
    "mse": PerChannelMSEObserver,
    "mix": PerChannelMixObserver,
    "noop": NoopObserver,
}
_WEIGHT_ARGUMENTS = {"qscheme": torch.per_channel_symmetric, "ch_axis": 0}


@checked
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


def _with_dtype(dtype: Any, qkwargs: dict[str, Any] | None) -> dict[str, Any]:
    return {"dtype": dtype, **(qkwargs or {})}


def _weight_kwargs(weight_dtype: Any, qkwargs: dict[str, Any] | None = None) -> dict[str, Any]:
    if dtype_name(weight_dtype) != "qint8":
        raise QConfigError(f"weight_dtype={weight_dtype!r} is not supported; supported: qint8")
    return _with_dtype("qint8", qkwargs)


@checked
def get_default_qat_qconfig(
    dtype: Any = "qint8",
    weight_dtype: Any = "qint8",
    activation_fake_quant: str | None = "fake_quant",
    weight_fake_quant: str | None = "fake_quant",
    activation_qkwargs: dict[str, Any] | None = None,
    weight_qkwargs: dict[str, Any] | None = None,
    backend: str = "",
) -> QConfig:
    """Statistics decide: activations per tensor (moving average), weights per output channel. `dtype` may be "qint16".

    `backend`: accepted and without effect, here and below: the march is the one of `set_march` when the model is prepared.
    """
    del backend
    return get_default_qconfig(
        activation_fake_quant,
        weight_fake_quant,
        activation_qkwargs=_with_dtype(dtype, activation_qkwargs),
        weight_qkwargs=_weight_kwargs(weight_dtype, weight_qkwargs),
    )


@checked
def get_default_qat_out_qconfig(
    dtype: Any = "qint8",
    weight_fake_quant: str | None = "fake_quant",
    weight_qkwargs: dict[str, Any] | None = None,
    backend: str = "",
    weight_dtype: Any = None,
) -> QConfig:
    """For the convolution or linear layer that ends a BPU segment: its int32 result leaves at high precision.

    `dtype`: of the weight; `weight_dtype` is another name of it.
    """
    del backend
    given = dtype if weight_dtype is None else weight_dtype
    return get_default_qconfig(None, weight_fake_quant, weight_qkwargs=_weight_kwargs(given, weight_qkwargs))


@checked
def get_default_calib_qconfig(dtype: Any = "qint8", calib_qkwargs: dict[str, Any] | None = None, backend: str = "") -> QConfig:
    """For calibration models: activations feed a histogram, weights nothing. `calib_qkwargs` go to the observer."""
    del backend
    return get_default_qconfig("calib", "calib", "calib", "noop", activation_qkwargs=_with_dtype(dtype, calib_qkwargs))


@checked
def get_default_lsq_qconfig(dtype: Any = "qint8", weight_dtype: Any = "qint8") -> QConfig:
    """Scales are learned (LSQ)."""
    return get_default_qat_qconfig(dtype, weight_dtype, "lsq", "lsq")


@checked
def get_qconfig(
    observer: Any = MovingAverageMinMaxObserver,
    in_dtype: Any = None,
    weight_dtype: Any = "qint8",
    out_dtype: Any = "qint8",
    fix_scale: bool = False,
) -> QConfig:
    """A qconfig whose activations are watched by `observer` (a class of hqc's observers); weights by their ranges.

    `out_dtype`: of the activation; None or torch.float32 is a high-precision output. `fix_scale`: the scales that calibration found
    stay as they are in QAT. `in_dtype` must be None: an operand has the dtype of the operation that makes it.
    """
    if in_dtype is not None:
        raise QConfigError(
            f"get_qconfig: in_dtype={in_dtype!r} belongs to the next chip generation; set the out_dtype of the operation that makes "
            "the operand"
        )
    weight = get_default_qat_qconfig(weight_dtype=weight_dtype).weight
    if out_dtype in (None, torch.float32):
        return QConfig(None, weight)
    if not (isinstance(observer, type) and issubclass(observer, ObserverBase)):
        raise QConfigError(f"get_qconfig: observer must be a class of hqc.quantization's observers, got {observer!r}")
    frozen = {"averaging_constant": 0.0} if fix_scale else {}
    return QConfig(FakeQuantize.with_args(observer=observer, dtype=dtype_name(out_dtype), **frozen), weight)


def _calib(dtype: str = "qint8") -> QConfig:
    """Fake quants that can be switched, over histograms."""
    return get_default_qconfig(activation_observer="percentile", activation_qkwargs={"dtype": dtype})


default_weight_8bit_fake_quant = get_default_qat_qconfig().weight
default_qat_8bit_fake_quant_qconfig = get_default_qat_qconfig()
default_qat_8bit_weight_16bit_act_fake_quant_qconfig = get_default_qat_qconfig("qint16")
default_qat_8bit_weight_32bit_out_fake_quant_qconfig = get_default_qat_out_qconfig()
default_qat_out_8bit_fake_quant_qconfig = get_default_qat_out_qconfig()
default_qat_8bit_lsq_quant_qconfig = get_default_lsq_qconfig()
default_qat_out_8bit_lsq_quant_qconfig = get_default_qat_out_qconfig(weight_fake_quant="lsq")
default_qat_8bit_weight_16bit_act_lsq_quant_qconfig = get_default_lsq_qconfig("qint16")
default_qat_8bit_weight_32bit_out_lsq_quant_qconfig = get_default_qat_out_qconfig(weight_fake_quant="lsq")
default_qat_8bit_pact_quant_qconfig = get_default_qat_qconfig(activation_fake_quant="pact")
default_qat_8bit_weight_16bit_act_pact_quant_qconfig = get_default_qat_qconfig("qint16", activation_fake_quant="pact")
default_calib_8bit_fake_quant_qconfig = _calib()
default_calib_8bit_weight_16bit_act_fake_quant_qconfig = _calib("qint16")
default_calib_8bit_weight_32bit_out_fake_quant_qconfig = get_default_qat_out_qconfig()
default_calib_out_8bit_fake_quant_qconfig = get_default_qat_out_qconfig()

__all__ = [
    "QConfig",
    "default_calib_8bit_fake_quant_qconfig",
    "default_calib_8bit_weight_16bit_act_fake_quant_qconfig",
    "default_calib_8bit_weight_32bit_out_fake_quant_qconfig",
    "default_calib_out_8bit_fake_quant_qconfig",
    "default_qat_8bit_fake_quant_qconfig",
    "default_qat_8bit_lsq_quant_qconfig",
    "default_qat_8bit_pact_quant_qconfig",
    "default_qat_8bit_weight_16bit_act_fake_quant_qconfig",
    "default_qat_8bit_weight_16bit_act_lsq_quant_qconfig",
    "default_qat_8bit_weight_16bit_act_pact_quant_qconfig",
    "default_qat_8bit_weight_32bit_out_fake_quant_qconfig",
    "default_qat_8bit_weight_32bit_out_lsq_quant_qconfig",
    "default_qat_out_8bit_fake_quant_qconfig",
    "default_qat_out_8bit_lsq_quant_qconfig",
    "default_weight_8bit_fake_quant",
    "get_default_calib_qconfig",
    "get_default_lsq_qconfig",
    "get_default_qat_out_qconfig",
    "get_default_qat_qconfig",
    "get_default_qconfig",
    "get_qconfig",
]
