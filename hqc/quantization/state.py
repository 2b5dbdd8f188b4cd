"""Which of its three jobs a prepared model is doing. `train()` and `eval()` never change it."""

from __future__ import annotations

import enum
from typing import Any

from torch import nn

from hqc.errors import InputError


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


def set_fake_quantize(model: nn.Module, state: Any) -> None:
    """Put every fake quant of a prepared model into `state`; the model remembers it, also through `state_dict`."""
    from hqc.quantization.fake_quantize import FakeQuantizeBase

    if not isinstance(state, FakeQuantState):
        known = ", ".join(f"FakeQuantState.{member.name}" for member in FakeQuantState)
        raise InputError(f"set_fake_quantize needs one of {known}, got {state!r}")
    for module in model.modules():
        if isinstance(module, FakeQuantizeBase):
            module.set_state(state)


def fake_quantize_state(model: nn.Module) -> FakeQuantState | None:
    """The state all fake quants of the model are in; None when there are none or somebody switched single ones."""
    from hqc.quantization.fake_quantize import FakeQuantizeBase

    states = {module.state for module in model.modules() if isinstance(module, FakeQuantizeBase)}
    return states.pop() if len(states) == 1 else None
