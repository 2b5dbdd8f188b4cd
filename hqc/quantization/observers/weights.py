"""Scales of weights by their rounding error."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hqc.arithmetic import bounds
from hqc.checked import numeric
from hqc.errors import CalibrationError
from hqc.quantization import torch_arithmetic
from hqc.quantization.observers.base import ObserverBase

SHARES = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.8, 0.75, 0.7)
"""Ranges that are tried, as shares of a channel's largest weight."""
_BLOCK = 1 << 17
"""Elements that are worked on at once on the CPU, so that they stay in its cache."""


@numeric
class PerChannelMSEObserver(ObserverBase):
    """Per slice along `ch_axis` the scale with the smallest squared rounding error of the tensor seen last.

    One candidate puts the largest weight on the grid: the range of section 1 of the arithmetic ends half a step beyond the grid's last
    point, so the largest weight, which matters most in a small kernel, would always be half a step off. On marches with power-of-two
    scales it is that of the range or the next finer one. Buffer `chosen`: float32 `[C]`, empty before the first tensor.
    """

    supports_channels = True
    chosen: Tensor

    def __init__(
        self,
        *,
        ch_axis: int = 0,
        stride: int = 1,
        averaging_constant: float = 1.0,
        update_interval: int = 1,
        **options: Any,
    ) -> None:
        """`stride`, `averaging_constant` and `update_interval` of other observers of this error: accepted and without effect."""
        super().__init__(ch_axis=ch_axis, **options)
        del stride, averaging_constant, update_interval
        self.register_buffer("chosen", torch.empty(0))
        self._last: Tensor | None = None  # `_digest` of what was seen last

    def reset(self) -> None:
        self.chosen, self._last = self.chosen.new_empty(0), None

    @property
    def calibrated(self) -> bool:
        return self.chosen.numel() > 0

    def _observe(self, x: Tensor) -> None:
        rows = x.transpose(0, self.ch_axis).flatten(1) if x.dim() > 1 else x.view(-1, 1)
        digest = _digest(rows)
        if self._last is not None and self._last.device == digest.device and torch.equal(self._last, digest):
            return  # calibration shows the same weight with every batch
        if not bool(rows.isfinite().all()):
            raise self._not_finite()
        candidates = self._candidates(rows)
        count = max(1, _BLOCK // max(1, rows.shape[1])) if rows.is_cpu else len(rows)
        blocks = [
            (rows[at : at + count], [scale[at : at + count] for scale in candidates]) for at in range(0, len(rows), count)
        ]
        self.chosen, self._last = torch.cat([self._best(block, scales) for block, scales in blocks]), digest

    def _best(self, rows: Tensor, candidates: list[Tensor]) -> Tensor:
        """Of each row, the first of the candidates `[C]` with the smallest error."""
        low, high = bounds(self.bits)
        chosen, best, work = candidates[0], None, torch.empty_like(rows)
        for scale in candidates:
            column = scale.unsqueeze(1)
            torch.div(rows, column, out=work).round_().clamp_(low, high).mul_(column)
            cost = work.sub_(rows).square_().sum(1)
            chosen = scale if best is None else torch.where(cost < best, scale, chosen)
            best = cost if best is None else torch.minimum(cost, best)
        return chosen

    def _candidates(self, rows: Tensor) -> list[Tensor]:
        """Scales `[C]`, the widest first: it wins ties, and of an all-zero channel, which takes the largest one's, all do."""
        widest = torch_arithmetic.weight_scale(rows.amin(1), rows.amax(1), self.bits)
        if self.power_of_two:
            ruled = torch_arithmetic.power_of_two_scale(widest)
            return [ruled, torch_arithmetic.power_of_two_scale(ruled / 2)]
        last = bounds(self.bits)[1]
        return [widest * ((last + 0.5) / last), *(widest * share for share in SHARES)]

    def scale(self) -> Tensor:
        self._require_calibrated()
        return self.chosen

    def merge(self, other: PerChannelMSEObserver) -> None:
        """Both saw the same weight."""
        self._check_mergeable(other)
        if not self.calibrated:
            self.chosen = other.chosen.to(self.chosen.device)
        elif other.calibrated and not torch.equal(self.chosen.cpu(), other.chosen.cpu()):
            raise CalibrationError(f"cannot merge observers of {self.what}: they saw different weights")

    def assign_scale(self, scale: Tensor) -> None:
        self.chosen, self._last = scale.detach().float().reshape(-1).to(self.chosen.device).clone(), None

    def extra_repr(self) -> str:
        return f"chosen={self.chosen}"


def _digest(rows: Tensor) -> Tensor:
    """Range, sum and sum of squares of each row: other numbers give another digest, wherever they are in memory.

    (Numbers in another order may give the same one, and the same scale.)
    """
    return torch.stack((*rows.aminmax(dim=1), rows.sum(1), torch.linalg.vector_norm(rows, dim=1)))
