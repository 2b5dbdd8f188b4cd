"""Which of its three jobs a prepared model is doing. `train()` and `eval()` never change it."""

from __future__ import annotations

import enum

from hqc.checked import explained


@explained
class Stateful:
    """What `set_fake_quantize` reaches: fake quants, and models that have none yet."""

    def set_state(self, state: FakeQuantState) -> None:
        """Work in `state` from now on."""
        raise NotImplementedError


class FakeQuantState(enum.Enum):
    """QAT quantizes and observes, CALIBRATION observes, VALIDATION quantizes."""

    QAT = "qat"
    CALIBRATION = "calibration"
    VALIDATION = "validation"

    @property
    def quantizes(self) -> bool:
        """Values are put on their grids."""
        return self is not FakeQuantState.CALIBRATION

    @property
    def observes(self) -> bool:
        """Ranges follow the data."""
        return self is not FakeQuantState.VALIDATION
