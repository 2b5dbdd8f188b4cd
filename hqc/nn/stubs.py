"""Markers for where the quantized part of a float model begins and ends. They compute nothing."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from hqc.checked import numeric
from hqc.errors import QConfigError


@numeric
class QuantStub(nn.Module):
    """The value becomes quantized here. `scale` fixes its scale (e.g. 1/128 for images); None: calibration finds it.

    `qconfig`: for this stub alone, as `module.qconfig`. A graph leaf.
    """

    _hqc_leaf = True

    def __init__(self, scale: float | None = None, zero_point: int | None = None, qconfig: Any = None) -> None:
        super().__init__()
        if scale is not None and not (math.isfinite(scale) and scale > 0):
            raise QConfigError(f"QuantStub: the scale must be positive and finite, got {scale}")
        if zero_point not in (None, 0):
            raise QConfigError(f"QuantStub: the BPU quantizes symmetrically, the zero point must be 0, got {zero_point}")
        self.scale = None if scale is None else float(scale)
        if qconfig is not None:
            self.qconfig = qconfig

    def forward(self, x: Tensor) -> Tensor:
        return x

    def extra_repr(self) -> str:
        return "" if self.scale is None else f"scale={self.scale:g}"


@numeric
class DeQuantStub(nn.Module):
    """The value becomes real here. `qconfig` is accepted for symmetry and means nothing. A graph leaf."""

    _hqc_leaf = True

    def __init__(self, qconfig: Any = None) -> None:
        super().__init__()
        if qconfig is not None:
            self.qconfig = qconfig

    def forward(self, x: Tensor) -> Tensor:
        return self._passed_on(x)

    def _passed_on(self, x: Tensor) -> Tensor:
        """What prepared models do more here keeps `forward`, by which a stub is known."""
        return x


@numeric
class QuantWrapper(nn.Module):
    """`module` between a QuantStub and a DeQuantStub."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        qconfig = getattr(module, "qconfig", None)
        self.quant = QuantStub(qconfig=qconfig)
        self.dequant = DeQuantStub(qconfig=qconfig)
        self.module = module
        self.train(module.training)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.dequant(self.module(self.quant(x)))
        return result
