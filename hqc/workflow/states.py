"""Scales that travel between prepared models: from a calibration model into a QAT model, by state dict or from model to model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from hqc.errors import CalibrationError, InputError
from hqc.nn.qat.layer import QATLayer
from hqc.quantization import torch_arithmetic
from hqc.quantization.calib_fake_quantize import REACH, CalibFakeQuantize
from hqc.quantization.fake_quantize import FakeQuantizeBase

_PART = "activation_post_process"


def canonical(path: str) -> str:
    """Path of a fake quant without the wrapper that boundary fake quants print in: the same in every kind of prepared model."""
    return path.removesuffix(f".{_PART}") if path.count(_PART) > 1 else path


def load_observer_params(source: nn.Module, target: nn.Module) -> list[str]:
    """Take the activation scales of one prepared model over into another, by name; returns the paths that were set.

    Fixed scales stay, weights keep the scales of their ranges. `InputError` when the models have no fake quant in common,
    `CalibrationError` when one of `source` was never calibrated.
    """
    taken = take_over_scales(source, target)
    if not taken:
        raise InputError("the two models have no activation fake quant of the same name; prepare both from one model")
    return taken


def take_over_scales(source: nn.Module, target: nn.Module) -> list[str]:
    """As `load_observer_params`; models without a fake quant in common have nothing to take over."""
    found = {canonical(name): fake_quant for name, fake_quant in _named(source)}
    taken = []
    for name, own in _named(target):
        other = found.get(canonical(name))
        if other is None or _is_parameters(name):
            continue
        if not other.calibrated:
            raise CalibrationError(
                f"{name} was never calibrated: run a few forwards of the calibration model in eval mode before prepare_qat_fx"
            )
        own.take_over(other)
        taken.append(name)
    return taken


def translate_calibration_state(module: nn.Module, state: dict[str, Any], prefix: str) -> bool:
    """Rewrite the entries of a calibration model's state dict to those of `module`, in place; False for any other state.

    A calibration model has a `reach` where a QAT model has a scale, a switch and an observer's range, nothing for weights, and
    no wrapper around boundary fake quants. The scales are set on `module` at once; its entries then say what it holds.
    """
    reaches = _reaches(state, prefix)
    own = [(name, fake_quant) for name, fake_quant in _named(module) if not isinstance(fake_quant, CalibFakeQuantize)]
    if not reaches or not own:
        return False
    for name, fake_quant in own:
        if canonical(name) in reaches:
            path, reach = reaches.pop(canonical(name))
            _set_reach(fake_quant, reach)
            for key in [key for key in state if key.startswith(f"{prefix}{path}.")]:
                del state[key]
        elif not _is_parameters(name):
            continue  # strict loading names what is missing
        state.update(fake_quant.state_dict(prefix=f"{prefix}{name}."))
    return True


def reset_weight_scales(module: nn.Module) -> None:
    """Take the weight scales of every layer from its weights as they are now."""
    for layer in module.modules():
        if isinstance(layer, QATLayer):
            layer.reset_weight_scale()


def _reaches(state: dict[str, Any], prefix: str) -> dict[str, tuple[str, Tensor]]:
    """Canonical path -> path and reach, of the calibrating fake quants in a state dict."""
    found = {}
    for key, value in state.items():
        if key.startswith(prefix) and key.endswith(f".{REACH}"):
            path = key[len(prefix) : -len(REACH) - 1]
            found[canonical(path)] = path, value
    return found


def _set_reach(fake_quant: FakeQuantizeBase, reach: Tensor) -> None:
    if reach.numel() and not fake_quant.fixed:
        fake_quant.assign_scale(torch_arithmetic.scale_from_range(-reach, reach, fake_quant.bits))


def _named(module: nn.Module) -> Iterator[tuple[str, FakeQuantizeBase]]:
    """Every path of every fake quant; one that is called in two places has two."""
    for name, child in module.named_modules(remove_duplicate=False):
        if isinstance(child, FakeQuantizeBase):
            yield name, child


def _is_parameters(name: str) -> bool:
    """True for the fake quant of a weight or bias."""
    return name.endswith(("weight_fake_quant", "bias_fake_quant"))
