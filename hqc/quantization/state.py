"""Which of its three jobs a prepared model is doing. `train()` and `eval()` never change it."""

from __future__ import annotations

import enum


class FakeQuantState(enum.Enum):
    """`(quantizes, observes)` of every fake quant in the model."""

    QAT = (True, True)
    CALIBRATION = (False, True)
    VALIDATION = (True, False)

    @property
    def quantizes(self) -> bool:
        """Values are put on their grids."""
        return self.value[0]

    @property
    def observes(self) -> bool:
        """Ranges follow the data."""
        return self.value[1]
