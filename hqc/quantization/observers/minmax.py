"""Smallest and largest value: over everything seen, per tensor or per channel."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hqc.checked import numeric
from hqc.quantization import torch_arithmetic
from hqc.quantization.observers.base import ObserverBase


@numeric
class MinMaxObserver(ObserverBase):
    """Range of all data so far.

    Buffers `min_val`, `max_val`: float32 `[1]`, infinite before the first batch.
    """

    min_val: Tensor
    max_val: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("min_val", torch.empty(0, dtype=torch.float32))
        self.register_buffer("max_val", torch.empty(0, dtype=torch.float32))
        self.reset()

    def reset(self) -> None:
        size = 0 if self.supports_channels else 1
        self.min_val = self.min_val.new_full((size,), math.inf)
        self.max_val = self.max_val.new_full((size,), -math.inf)
        self._seen = False

    def _after_load(self) -> None:
        self._seen = self.min_val.numel() > 0 and bool((self.min_val <= self.max_val).all())

    @property
    def calibrated(self) -> bool:
        return self._seen

    # --- observing -----------------------------------------------------------------------------------------------------

    def _observe(self, x: Tensor) -> None:
        low, high = self._batch_range(x)
        # The host looks at the numbers where that is free; elsewhere NaN stays in the range until the scale is asked for.
        if low.device.type == "cpu" and not _finite(high - low):
            if x.numel() == 0:
                return  # under torch.distributed: no rank had data
            raise self._not_finite()
        if self._seen:
            self._update(low, high)
        else:
            self._store(low, high)

    def _batch_range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The range to cover of one batch (over all ranks), float32 `[1]` or `[C]`."""
        if x.numel() == 0:
            low, high = x.new_full((1,), math.inf), x.new_full((1,), -math.inf)
        elif self.supports_channels:
            low, high = self._row_ranges(x.transpose(0, self.ch_axis).flatten(1) if x.dim() > 1 else x.view(-1, 1))
        else:
            low, high = self._range(x)
        if self._synchronized():
            both = torch.cat([-low, high])
            dist.all_reduce(both, op=dist.ReduceOp.MAX)
            low, high = -both[: len(low)], both[len(low) :]
        return low, high

    def _range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The range to cover of one tensor, each `[1]`."""
        low, high = torch.aminmax(x)
        return low.view(1), high.view(1)

    def _row_ranges(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The range to cover of each row of `[C, N]`, each `[C]`."""
        return rows.amin(1), rows.amax(1)  # on the CPU four times as fast as aminmax along an axis

    def _store(self, low: Tensor, high: Tensor) -> None:
        if self.min_val.shape == low.shape:
            self.min_val.copy_(low)
            self.max_val.copy_(high)
        else:
            self.min_val, self.max_val = low.clone(), high.clone()
        self._seen = True

    def _update(self, low: Tensor, high: Tensor) -> None:
        torch.minimum(self.min_val, low, out=self.min_val)
        torch.maximum(self.max_val, high, out=self.max_val)

    def merge(self, other: MinMaxObserver) -> None:
        self._check_mergeable(other)
        if other._seen:
            low, high = other.min_val.to(self.min_val.device), other.max_val.to(self.max_val.device)
            if self._seen:
                low, high = torch.minimum(self.min_val, low), torch.maximum(self.max_val, high)
            self._store(low, high)

    # --- answering -----------------------------------------------------------------------------------------------------

    def scale(self) -> Tensor:
        self._require_calibrated()
        return torch_arithmetic.scale_from_range(self.min_val, self.max_val, self.bits)

    def assign_scale(self, scale: Tensor) -> None:
        low, high = torch_arithmetic.range_from_scale(scale.detach().to(self.min_val.device).reshape(-1), self.bits)
        self._store(low, high)

    def extra_repr(self) -> str:
        return f"min_val={self.min_val}, max_val={self.max_val}"


@numeric
class PerChannelMinMaxObserver(MinMaxObserver):
    """Range of each slice along `ch_axis`; an all-zero channel takes the largest channel's scale.

    Buffers `[C]`, empty before the first batch.
    """

    supports_channels = True

    def __init__(self, *, ch_axis: int = 0, **options: Any) -> None:
        super().__init__(ch_axis=ch_axis, **options)

    def scale(self) -> Tensor:
        self._require_calibrated()
        return torch_arithmetic.weight_scale(self.min_val, self.max_val, self.bits)


def _finite(x: Tensor) -> bool:
    return math.isfinite(float(x)) if x.numel() == 1 else bool(x.isfinite().all())
