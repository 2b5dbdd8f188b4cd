"""Observers that do not observe."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hqc.errors import CalibrationError, QConfigError
from hqc.quantization.observers.base import ObserverBase


class FixedScaleObserver(ObserverBase):
    """A scale that the user fixed: no data changes it. A fake quant with this observer never observes."""

    fixed_scale: Tensor

    def __init__(self, scale: float, zero_point: int = 0, **options: Any) -> None:
        super().__init__(**options)
        if not (math.isfinite(scale) and scale > 0):
            raise QConfigError(f"a fixed scale must be positive and finite, got {scale}")
        if zero_point != 0:
            raise QConfigError(f"the BPU quantizes symmetrically: the zero point must be 0, got {zero_point}")
        self.register_buffer("fixed_scale", torch.tensor([float(scale)], dtype=torch.float32))

    @property
    def calibrated(self) -> bool:
        return True

    def _observe(self, x: Tensor) -> None:
        """Nothing: the scale is fixed."""

    def scale(self) -> Tensor:
        return self.fixed_scale

    def merge(self, other: FixedScaleObserver) -> None:
        self._check_mergeable(other)
        if not torch.equal(self.fixed_scale.cpu(), other.fixed_scale.cpu()):
            raise CalibrationError(
                f"cannot merge two fixed scales of {self.what}: {self.fixed_scale.item()}, {other.fixed_scale.item()}"
            )

    def assign_scale(self, scale: Tensor) -> None:
        """A fixed scale stays what it is."""

    def reset(self) -> None:
        """There is nothing to forget."""

    def extra_repr(self) -> str:
        return f"scale={self.fixed_scale}"


class NoopObserver(ObserverBase):
    """Takes no statistics: the weights of a calibration model."""

    supports_channels = True

    @property
    def calibrated(self) -> bool:
        return False

    def _observe(self, x: Tensor) -> None:
        """Nothing."""

    def scale(self) -> Tensor:
        raise CalibrationError(
            f"{self.what} is not observed in a calibration model; prepare_qat_fx takes its scale from the weights"
        )

    def merge(self, other: NoopObserver) -> None:
        self._check_mergeable(other)

    def assign_scale(self, scale: Tensor) -> None:
        """There is no place to keep it."""

    def reset(self) -> None:
        """There is nothing to forget."""
