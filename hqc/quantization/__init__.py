"""Quantization for training and calibration. Names load on first use, so that importing one part does not import all."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # so that type checkers and editors see what loads on first use; a test compares it with the tables below
    from hqc.quantization.calib_fake_quantize import CalibFakeQuantize as CalibFakeQuantize
    from hqc.quantization.fake_quantize import BoundaryFakeQuantize as BoundaryFakeQuantize
    from hqc.quantization.fake_quantize import FakeQuantize as FakeQuantize
    from hqc.quantization.fake_quantize import FakeQuantizeBase as FakeQuantizeBase
    from hqc.quantization.lsq import LearnedScaleFakeQuantize as LearnedScaleFakeQuantize
    from hqc.quantization.observers import CalibObserver as CalibObserver
    from hqc.quantization.observers import FixedScaleObserver as FixedScaleObserver
    from hqc.quantization.observers import HistogramObserver as HistogramObserver
    from hqc.quantization.observers import KLObserver as KLObserver
    from hqc.quantization.observers import MinMaxObserver as MinMaxObserver
    from hqc.quantization.observers import MixObserver as MixObserver
    from hqc.quantization.observers import MovingAverageMinMaxObserver as MovingAverageMinMaxObserver
    from hqc.quantization.observers import MovingAveragePerChannelMinMaxObserver as MovingAveragePerChannelMinMaxObserver
    from hqc.quantization.observers import MSEObserver as MSEObserver
    from hqc.quantization.observers import NoopObserver as NoopObserver
    from hqc.quantization.observers import ObserverBase as ObserverBase
    from hqc.quantization.observers import PercentileObserver as PercentileObserver
    from hqc.quantization.observers import PerChannelMinMaxObserver as PerChannelMinMaxObserver
    from hqc.quantization.qconfig import QConfig as QConfig
    from hqc.quantization.qconfig import default_calib_8bit_fake_quant_qconfig as default_calib_8bit_fake_quant_qconfig
    from hqc.quantization.qconfig import default_qat_8bit_fake_quant_qconfig as default_qat_8bit_fake_quant_qconfig
    from hqc.quantization.qconfig import default_qat_8bit_lsq_quant_qconfig as default_qat_8bit_lsq_quant_qconfig
    from hqc.quantization.qconfig import default_qat_out_8bit_fake_quant_qconfig as default_qat_out_8bit_fake_quant_qconfig
    from hqc.quantization.qconfig import get_default_calib_qconfig as get_default_calib_qconfig
    from hqc.quantization.qconfig import get_default_lsq_qconfig as get_default_lsq_qconfig
    from hqc.quantization.qconfig import get_default_qat_out_qconfig as get_default_qat_out_qconfig
    from hqc.quantization.qconfig import get_default_qat_qconfig as get_default_qat_qconfig
    from hqc.quantization.qconfig import get_default_qconfig as get_default_qconfig
    from hqc.quantization.state import FakeQuantState as FakeQuantState
    from hqc.quantization.switches import fake_quantize_state as fake_quantize_state
    from hqc.quantization.switches import set_fake_quantize as set_fake_quantize
    from hqc.workflow.calibration import calibrate as calibrate
    from hqc.workflow.convert import convert_fx as convert_fx
    from hqc.workflow.fuse import fuse_fx as fuse_fx
    from hqc.workflow.prepare import prepare_calibration_fx as prepare_calibration_fx
    from hqc.workflow.prepare import prepare_qat_fx as prepare_qat_fx
    from hqc.workflow.states import load_observer_params as load_observer_params

_WORKFLOW = {
    "prepare": ("prepare_calibration_fx", "prepare_qat_fx"),
    "calibration": ("calibrate",),
    "convert": ("convert_fx",),
    "fuse": ("fuse_fx",),
    "states": ("load_observer_params",),
}
"""Entry points that users know under this package and that live above it (the one door upwards)."""
_EXPORTS = {
    "state": ("FakeQuantState",),
    "switches": ("fake_quantize_state", "set_fake_quantize"),
    "fake_quantize": ("BoundaryFakeQuantize", "FakeQuantize", "FakeQuantizeBase"),
    "calib_fake_quantize": ("CalibFakeQuantize",),
    "lsq": ("LearnedScaleFakeQuantize",),
    "observers": (
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
    ),
    "qconfig": (
        "QConfig",
        "default_calib_8bit_fake_quant_qconfig",
        "default_qat_8bit_fake_quant_qconfig",
        "default_qat_8bit_lsq_quant_qconfig",
        "default_qat_out_8bit_fake_quant_qconfig",
        "get_default_calib_qconfig",
        "get_default_lsq_qconfig",
        "get_default_qat_out_qconfig",
        "get_default_qat_qconfig",
        "get_default_qconfig",
    ),
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _EXPORTS.items() for name in names} | {
    name: f"hqc.workflow.{module}" for module, names in _WORKFLOW.items() for name in names
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
