"""Quantization for training and calibration. Names load on first use, so that importing one part does not import all."""

from __future__ import annotations

import importlib
from typing import Any

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
