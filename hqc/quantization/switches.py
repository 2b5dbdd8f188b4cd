"""Put all fake quants of a model into a state, and ask which one they are in."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from hqc.checked import checked, shown
from hqc.errors import InputError
from hqc.quantization.fake_quantize import FakeQuantizeBase
from hqc.quantization.state import FakeQuantState, Stateful


@checked
def set_fake_quantize(model: nn.Module, state: Any) -> None:
    """Put every fake quant of a prepared model into `state` (a FakeQuantState or its value, such as "calibration").

    The model remembers it, also through `state_dict`.
    """
    try:
        state = FakeQuantState(state)
    except (ValueError, TypeError, RuntimeError):  # an array compares itself with the states
        known = ", ".join(f"FakeQuantState.{member.name}" for member in FakeQuantState)
        raise InputError(f"set_fake_quantize needs one of {known}, got {shown(state)}") from None
    if not isinstance(model, nn.Module):
        raise InputError(f"set_fake_quantize needs a prepared model, got {type(model).__name__}")
    for module in model.modules():
        if isinstance(module, Stateful):
            module.set_state(state)


@checked
def fake_quantize_state(model: nn.Module) -> FakeQuantState | None:
    """The state all fake quants of the model are in; None when there are none or somebody switched single ones."""
    states = {module.state for module in model.modules() if isinstance(module, FakeQuantizeBase)}
    return states.pop() if len(states) == 1 else None


@contextmanager
def quantizing(
    model: nn.Module, chosen: Collection[FakeQuantizeBase] | None = None, observing: Collection[FakeQuantizeBase] = ()
) -> Iterator[None]:
    """Inside, the fake quants in `chosen` (None: all of the model) quantize and the others hand values on; those in `observing` observe.

    The switches that `state_dict` holds are not touched, and all are as before afterwards.
    """
    found = [module for module in model.modules() if isinstance(module, FakeQuantizeBase)]
    before = [(module, module._quantizes, module._observes) for module in found]
    try:
        for module in found:
            module._quantizes, module._observes = chosen is None or module in chosen, module in observing
        yield
    finally:
        for module, quantizes, observes in before:
            module._quantizes, module._observes = quantizes, observes
