"""Fake quants behind and before operations that are infinite, undefined or infinitely steep at some points: log, division, square root.

A grid meets such a point far more often than real numbers do: an eps that is smaller than half a step is 0 there and keeps nothing from 0.
The BPU's tables and divisions end at the ends of the result's grid and hold 0 where nothing is defined (sections 5 and 6 of the
arithmetic). Training does the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor

from hqc.checked import checked
from hqc.quantization.exporting import exporting

logger = logging.getLogger(__name__)

_BEYOND = 1e30
"""Outside every grid; divided by a scale it still is a number, of which gradients of learned scales take differences."""


class SingularPoints:
    """What fake quants do about it; nothing unless `follow_singular` was called."""

    _behind_singular = False
    _before_singular = False
    _told = False

    @property
    def quantizes(self) -> bool:
        """Values are put on the grid at present."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """How sentences name the tensor, with or without a name."""
        raise NotImplementedError

    @checked
    def follow_singular(self, operands: Iterable[SingularPoints]) -> None:
        """The values come from such an operation on the BPU, whose operands `operands` have put on their grids."""
        self._behind_singular = True
        for operand in operands:
            operand._before_singular = True

    @checked
    def follow_steepness(self) -> None:
        """Such an operation reads the values, on the BPU or on the CPU."""
        self._before_singular = True

    def _where_defined(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`x` as the statistics take it (0 where it is infinite or undefined), and as the grid does (NaN is 0, infinities saturate)."""
        if not (self._behind_singular and self.quantizes) or exporting():
            return x, x
        if not self._told and not bool(x.isfinite().all()):
            self._told = True
            logger.warning(
                "%s is infinite or undefined at a point that the grid of its operands holds (an eps that is smaller than half a step is 0 "
                "there); the BPU's table ends at the end of the grid, and training follows it; to compute it in float, place it and what "
                "adds the eps on the CPU with hybrid_dict",
                self.label,
            )
        return torch.nan_to_num(x.detach(), 0.0, 0.0, 0.0), torch.nan_to_num(x, 0.0, _BEYOND, -_BEYOND)

    def _guarded(self, result: Tensor) -> Tensor:
        """`result`, which takes no gradient from where an operation behind it is infinitely steep."""
        if self._before_singular and result.requires_grad:
            result.register_hook(_finite)  # type: ignore[no-untyped-call]
        return result


def _finite(gradient: Tensor) -> Tensor:
    return torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
