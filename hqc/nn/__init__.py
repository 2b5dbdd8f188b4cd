"""Modules that users put in float models; their quantized-training twins are in `hqc.nn.qat`."""

from __future__ import annotations

from typing import Any

from hqc.lazy import submodule
from hqc.nn.activations import (
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    Ceil,
    Cos,
    Cosh,
    Div,
    Erf,
    Exp,
    Floor,
    HardLog,
    Pow,
    Reciprocal,
    Selu,
    Sin,
    Sinh,
    Sqrt,
    Tan,
)
from hqc.nn.detection import (
    AnchorGenerator,
    DetectionPostProcess,
    DetectionPostProcessV1,
    MultiScaleRoIAlign,
    PointPillarsScatter,
    RcnnPostProcess,
)
from hqc.nn.layers import (
    BgrToYuv444,
    Correlation,
    GridSample,
    Interpolate,
    LayerNorm,
    RMSNorm,
)
from hqc.nn.stubs import DeQuantStub, QuantStub, QuantWrapper

__all__ = [
    "Acos",
    "Acosh",
    "AnchorGenerator",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BgrToYuv444",
    "Ceil",
    "Correlation",
    "Cos",
    "Cosh",
    "DeQuantStub",
    "DetectionPostProcess",
    "DetectionPostProcessV1",
    "Div",
    "Erf",
    "Exp",
    "Floor",
    "GridSample",
    "HardLog",
    "Interpolate",
    "LayerNorm",
    "MultiScaleRoIAlign",
    "PointPillarsScatter",
    "Pow",
    "QuantStub",
    "QuantWrapper",
    "RMSNorm",
    "RcnnPostProcess",
    "Reciprocal",
    "Selu",
    "Sin",
    "Sinh",
    "Sqrt",
    "Tan",
]

import hqc.nn.lowering  # noqa: F401  (registers the modules of this package with the front end)


def __getattr__(name: str) -> Any:
    return submodule(__name__, name)
