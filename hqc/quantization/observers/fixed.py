"""Observers that do not observe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hqc.checked import numeric
from hqc.errors import CalibrationError, QConfigError
from hqc.quantization.observers.base import ObserverBase


@numeric
class FixedScaleObserver(ObserverBase):
    """A scale that the user fixed: no data changes it. A fake quant with this observer never observes."""

    fixed_scale: Tensor
    supports_channels = True

    def __init__(self, scale: Any, zero_point: int = 0, **options: Any) -> None:
        """`scale`: a number or, for weights, one per channel."""
        super().__init__(**options)
        scales = torch.as_tensor(scale, dtype=torch.float32).detach().reshape(-1).clone()
        if not bool((scales.isfinite() & (scales > 0)).all()) or (len(scales) != 1 and self.ch_axis < 0):
            raise QConfigError(f"a fixed scale must be positive and finite, got {scale}")
        if zero_point != 0:
            raise QConfigError(f"the BPU quantizes symmetrically: the zero point must be 0, got {zero_point}")
        self.register_buffer("fixed_scale", scales)

    @property
    def calibrated(self) -> bool:
        return True

    def _observe(self, x: Tensor) -> None:
        """The scale is fixed; one for all channels becomes one per channel where the weight is first seen."""
        if self.ch_axis >= 0:
            channels = x.shape[self.ch_axis]
            if len(self.fixed_scale) not in (1, channels):
                raise QConfigError(f"{self.what} has {channels} channels, its fixed scale has {len(self.fixed_scale)} entries")
            self.fixed_scale = self.fixed_scale.expand(channels).clone()

    def scale(self) -> Tensor:
        return self.fixed_scale

    def merge(self, other: FixedScaleObserver) -> None:
        self._check_mergeable(other)
        if not torch.equal(self.fixed_scale.cpu(), other.fixed_scale.cpu()):
            raise CalibrationError(
                f"cannot merge two fixed scales of {self.what}: {self.fixed_scale.tolist()}, {other.fixed_scale.tolist()}"
            )

    def assign_scale(self, scale: Tensor) -> None:
        """A fixed scale stays what it is."""

    def reset(self) -> None:
        """There is nothing to forget."""

    def extra_repr(self) -> str:
        return f"scale={self.fixed_scale}"


@numeric
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
