"""The fake quant of calibration models: it watches, and in VALIDATION it quantizes with what it found."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hqc.checked import numeric
from hqc.ir import QuantParams
from hqc.quantization import torch_arithmetic
from hqc.quantization.dtypes import IR_DTYPES
from hqc.quantization.fake_quantize import REACH, FakeQuantizeBase, ScaleInfo
from hqc.quantization.observers.fixed import NoopObserver
from hqc.quantization.observers.histogram import CalibObserver
from hqc.quantization.state import FakeQuantState


@numeric
class CalibFakeQuantize(FakeQuantizeBase):
    """Hands its input on unchanged and lets the observer see it; the model computes what the float model computes.

    In the state VALIDATION it quantizes with the scale found so far, a weight (NoopObserver) with that of its own range; in every
    other state it calibrates. It has no switches to save, and starts to calibrate again when it is loaded.
    """

    def __init__(self, observer: Any = CalibObserver, **kwargs: Any) -> None:
        super().__init__(observer, **kwargs)
        self._buffers.clear()
        self._quantizes = False
        self._known: Tensor | None = None  # the scale in force, until the observer sees more

    @property
    def calibrated(self) -> bool:
        return self.of_weights or super().calibrated

    @property
    def of_weights(self) -> bool:
        """The scale is that of the values themselves, whatever they are."""
        return isinstance(self.activation_post_process, NoopObserver)

    def forward(self, x: Tensor) -> Tensor:
        if self._observes:
            self.activation_post_process.observe(x)
            self._mark_stale()
        if not self._quantizes:
            return x
        if self.of_weights:
            scale = self._ruled(torch_arithmetic.scale_of_values(x, self.bits, self.ch_axis))
        else:
            self._require_scale()
            scale = self.calculate_qparams()[0]
        return torch_arithmetic.fake_quantize(x, scale, self.bits, self.rounding, self.ch_axis)

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        if self._stale or self._known is None:
            self._known = self._ruled(self.unrounded_scale())
            self._stale = False
        return self._known, torch.zeros_like(self._known, dtype=torch.int64)

    def scale_info(self) -> ScaleInfo:
        if self.of_weights:  # asked for without the weight: there is none to give
            self.activation_post_process.scale()
        return super().scale_info()

    def weight_quant(self, weight: Tensor) -> QuantParams:
        if not self.of_weights:
            return self.ir_quant()
        scale = self._ruled(torch_arithmetic.scale_of_values(weight, self.bits, self.ch_axis))
        return QuantParams(scale.cpu().numpy(), IR_DTYPES[self.dtype], None if self.ch_axis < 0 else self.ch_axis)

    def assign_scale(self, scale: Tensor) -> None:
        self.activation_post_process.assign_scale(scale)
        self._mark_stale()

    def initialize(self, x: Tensor) -> None:
        """Weights are not observed in a calibration model."""

    def enable_fake_quant(self, enabled: bool = True) -> None:
        self._quantizes = enabled

    def enable_observer(self, enabled: bool = True) -> None:
        self._observes = enabled and not self.fixed

    def set_state(self, state: FakeQuantState) -> None:
        validating = state is FakeQuantState.VALIDATION
        self.enable_fake_quant(validating)
        self.enable_observer(not validating)

    @property
    def _saves_reach(self) -> bool:
        return not self.of_weights

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.pop(prefix + REACH, None)  # the observer's own statistics say it again
        super(FakeQuantizeBase, self)._load_from_state_dict(state_dict, prefix, *args)
        self._mark_stale()
