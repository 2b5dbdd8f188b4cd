"""Quantization for training and calibration. Names load on first use, so that importing one part does not import all."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hqc.absent import find_absent
from hqc.lazy import submodule

if TYPE_CHECKING:  # so that type checkers and editors see what loads on first use; a test compares it with the tables below
    from hqc.march import March as March
    from hqc.nn.stubs import DeQuantStub as DeQuantStub
    from hqc.nn.stubs import QuantStub as QuantStub
    from hqc.nn.stubs import QuantWrapper as QuantWrapper
    from hqc.quantization.calib_fake_quantize import CalibFakeQuantize as CalibFakeQuantize
    from hqc.quantization.dtypes import QuantDType as QuantDType
    from hqc.quantization.dtypes import qinfo as qinfo
    from hqc.quantization.dtypes import qint8 as qint8
    from hqc.quantization.dtypes import qint16 as qint16
    from hqc.quantization.dtypes import qint32 as qint32
    from hqc.quantization.fake_quantize import BoundaryFakeQuantize as BoundaryFakeQuantize
    from hqc.quantization.fake_quantize import FakeQuantize as FakeQuantize
    from hqc.quantization.fake_quantize import FakeQuantizeBase as FakeQuantizeBase
    from hqc.quantization.lsq import LearnedScaleFakeQuantize as LearnedScaleFakeQuantize
    from hqc.quantization.lsq import PACTFakeQuantize as PACTFakeQuantize
    from hqc.quantization.observers import CalibObserver as CalibObserver
    from hqc.quantization.observers import ClipObserver as ClipObserver
    from hqc.quantization.observers import ClipStdObserver as ClipStdObserver
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
    from hqc.quantization.observers import PerChannelMSEObserver as PerChannelMSEObserver
    from hqc.quantization.qat_mode import QATMode as QATMode
    from hqc.quantization.qat_mode import get_qat_mode as get_qat_mode
    from hqc.quantization.qat_mode import set_qat_mode as set_qat_mode
    from hqc.quantization.qconfig import QConfig as QConfig
    from hqc.quantization.qconfig import default_calib_8bit_fake_quant_qconfig as default_calib_8bit_fake_quant_qconfig
    from hqc.quantization.qconfig import (
        default_calib_8bit_weight_16bit_act_fake_quant_qconfig as default_calib_8bit_weight_16bit_act_fake_quant_qconfig,
    )
    from hqc.quantization.qconfig import (
        default_calib_8bit_weight_32bit_out_fake_quant_qconfig as default_calib_8bit_weight_32bit_out_fake_quant_qconfig,
    )
    from hqc.quantization.qconfig import default_calib_out_8bit_fake_quant_qconfig as default_calib_out_8bit_fake_quant_qconfig
    from hqc.quantization.qconfig import default_qat_8bit_fake_quant_qconfig as default_qat_8bit_fake_quant_qconfig
    from hqc.quantization.qconfig import default_qat_8bit_lsq_quant_qconfig as default_qat_8bit_lsq_quant_qconfig
    from hqc.quantization.qconfig import default_qat_8bit_pact_quant_qconfig as default_qat_8bit_pact_quant_qconfig
    from hqc.quantization.qconfig import (
        default_qat_8bit_weight_16bit_act_fake_quant_qconfig as default_qat_8bit_weight_16bit_act_fake_quant_qconfig,
    )
    from hqc.quantization.qconfig import (
        default_qat_8bit_weight_16bit_act_lsq_quant_qconfig as default_qat_8bit_weight_16bit_act_lsq_quant_qconfig,
    )
    from hqc.quantization.qconfig import (
        default_qat_8bit_weight_16bit_act_pact_quant_qconfig as default_qat_8bit_weight_16bit_act_pact_quant_qconfig,
    )
    from hqc.quantization.qconfig import (
        default_qat_8bit_weight_32bit_out_fake_quant_qconfig as default_qat_8bit_weight_32bit_out_fake_quant_qconfig,
    )
    from hqc.quantization.qconfig import (
        default_qat_8bit_weight_32bit_out_lsq_quant_qconfig as default_qat_8bit_weight_32bit_out_lsq_quant_qconfig,
    )
    from hqc.quantization.qconfig import default_qat_out_8bit_fake_quant_qconfig as default_qat_out_8bit_fake_quant_qconfig
    from hqc.quantization.qconfig import default_qat_out_8bit_lsq_quant_qconfig as default_qat_out_8bit_lsq_quant_qconfig
    from hqc.quantization.qconfig import default_weight_8bit_fake_quant as default_weight_8bit_fake_quant
    from hqc.quantization.qconfig import get_default_calib_qconfig as get_default_calib_qconfig
    from hqc.quantization.qconfig import get_default_lsq_qconfig as get_default_lsq_qconfig
    from hqc.quantization.qconfig import get_default_qat_out_qconfig as get_default_qat_out_qconfig
    from hqc.quantization.qconfig import get_default_qat_qconfig as get_default_qat_qconfig
    from hqc.quantization.qconfig import get_default_qconfig as get_default_qconfig
    from hqc.quantization.qconfig import get_qconfig as get_qconfig
    from hqc.quantization.state import FakeQuantState as FakeQuantState
    from hqc.quantization.switches import fake_quantize_state as fake_quantize_state
    from hqc.quantization.switches import set_fake_quantize as set_fake_quantize
    from hqc.utils.deploy_calls import check_model as check_model
    from hqc.utils.deploy_calls import compile_model as compile_model
    from hqc.utils.deploy_calls import export_hbir as export_hbir
    from hqc.utils.deploy_calls import perf_model as perf_model
    from hqc.utils.deploy_calls import visualize_model as visualize_model
    from hqc.workflow.calibration import calibrate as calibrate
    from hqc.workflow.convert import convert_fx as convert_fx
    from hqc.workflow.eager import convert as convert
    from hqc.workflow.eager import fuse_known_modules as fuse_known_modules
    from hqc.workflow.eager import fuse_modules as fuse_modules
    from hqc.workflow.eager import prepare_calibration as prepare_calibration
    from hqc.workflow.eager import prepare_qat as prepare_qat
    from hqc.workflow.fuse import fuse_fx as fuse_fx
    from hqc.workflow.prepare import prepare_calibration_fx as prepare_calibration_fx
    from hqc.workflow.prepare import prepare_qat_fx as prepare_qat_fx
    from hqc.workflow.states import load_observer_params as load_observer_params


_ABOVE = {
    "hqc.march": ("March",),
    "hqc.quantization.qat_mode": ("QATMode", "get_qat_mode", "set_qat_mode"),
    "hqc.nn.stubs": ("DeQuantStub", "QuantStub", "QuantWrapper"),
    "hqc.workflow.prepare": ("prepare_calibration_fx", "prepare_qat_fx"),
    "hqc.workflow.calibration": ("calibrate",),
    "hqc.workflow.convert": ("convert_fx",),
    "hqc.workflow.eager": ("convert", "fuse_known_modules", "fuse_modules", "prepare_calibration", "prepare_qat"),
    "hqc.utils.deploy_calls": ("check_model", "compile_model", "export_hbir", "perf_model", "visualize_model"),
    "hqc.workflow.fuse": ("fuse_fx",),
    "hqc.workflow.states": ("load_observer_params",),
}
"""What users know under this package and what lives in another room (the one door upwards)."""
_QCONFIGS = (
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
)
_EXPORTS = {
    "dtypes": ("QuantDType", "qinfo", "qint8", "qint16", "qint32"),
    "state": ("FakeQuantState",),
    "switches": ("fake_quantize_state", "set_fake_quantize"),
    "fake_quantize": ("BoundaryFakeQuantize", "FakeQuantize", "FakeQuantizeBase"),
    "calib_fake_quantize": ("CalibFakeQuantize",),
    "lsq": ("LearnedScaleFakeQuantize", "PACTFakeQuantize"),
    "observers": (
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
        "PerChannelMSEObserver",
        "PerChannelMinMaxObserver",
        "PercentileObserver",
    ),
    "qconfig": _QCONFIGS,
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _EXPORTS.items() for name in names} | {
    name: module for module, names in _ABOVE.items() for name in names
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        stand_in = find_absent(__name__, name)
        if stand_in is not None:
            return stand_in
        return submodule(__name__, name)
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
