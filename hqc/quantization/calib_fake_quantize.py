"""The fake quant of calibration models: it watches and does not quantize."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hqc.errors import CalibrationError
from hqc.quantization import torch_arithmetic
from hqc.quantization.fake_quantize import FakeQuantizeBase
from hqc.quantization.observers.histogram import CalibObserver


class CalibFakeQuantize(FakeQuantizeBase):
    """Hands its input on unchanged and lets the observer see it; the model computes what the float model computes.

    `set_state` has no effect: a calibration model always calibrates.
    """

    switchable = False

    def __init__(self, observer: Any = CalibObserver, **kwargs: Any) -> None:
        super().__init__(observer, **kwargs)
        self._buffers.clear()  # no switches to save
        self._quantizes = False

    def forward(self, x: Tensor) -> Tensor:
        self.activation_post_process.observe(x)
        return x

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        scale = self.activation_post_process.scale()
        if self.power_of_two:
            scale = torch_arithmetic.power_of_two_scale(scale)
        return scale, torch.zeros_like(scale, dtype=torch.int64)

    def assign_scale(self, scale: Tensor) -> None:
        self.activation_post_process.assign_scale(scale)

    def initialize(self, x: Tensor) -> None:
        """Weights are not observed in a calibration model."""

    def enable_fake_quant(self, enabled: bool = True) -> None:
        if enabled:
            raise CalibrationError("a calibration model does not quantize; make a QAT model from it with prepare_qat_fx")

    def enable_observer(self, enabled: bool = True) -> None:
        if not enabled:
            raise CalibrationError("a calibration model always observes; make a QAT model from it with prepare_qat_fx")

    def set_state(self, state: Any) -> None:
        """A calibration model is always in its one state."""

    def _load_from_state_dict(self, *args: Any) -> None:
        super(FakeQuantizeBase, self)._load_from_state_dict(*args)
