"""Scales that travel between prepared models: from a calibration model into a QAT model, by state dict or from model to model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hqc.checked import checked
from hqc.errors import CalibrationError, InputError
from hqc.nn.qat.layer import QATLayer
from hqc.quantization import torch_arithmetic
from hqc.quantization.calib_fake_quantize import CalibFakeQuantize
from hqc.quantization.fake_quantize import REACH, FakeQuantizeBase

_PART = "activation_post_process"
_SWITCH = "fake_quant_enabled"


def part_of_state(state: Mapping[str, Any], own: Mapping[str, Any], prefix: str = "") -> OrderedDict[str, Any]:
    """`own`, what is taken of the entries of a state dict, with the versions that `state` says its modules were saved with.

    Modules read old entries by them, and some refuse a state dict without. `prefix`: of `state`'s paths, which `own` does not have.
    """
    result = OrderedDict(own)
    versions: Mapping[str, Any] = getattr(state, "_metadata", {})
    kept = {path.removeprefix(prefix): version for path, version in versions.items() if f"{path}.".startswith(prefix)}
    result._metadata = kept  # type: ignore[attr-defined]
    return result


def canonical(path: str) -> str:
    """Path of a fake quant without the wrapper that boundary fake quants print in: the same in every kind of prepared model."""
    return path.removesuffix(f".{_PART}") if path.count(_PART) > 1 else path


@checked
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


def translate_state(module: nn.Module, state: dict[str, Any], prefix: str) -> bool:
    """Rewrite the entries of fake quants of another kind in a state dict to those of `module`, in place.

    Models that calibrate have other observers, no wrapper around boundary fake quants and, in calibration models, nothing for weights.
    What their entries say of the scale is set on `module` at once; its entries then say what it holds. True where the weights' scales
    have to follow from the weights that are loaded.
    """
    incoming = _incoming(state, prefix)
    own = [(name, fake_quant) for name, fake_quant in _named(module) if not isinstance(fake_quant, CalibFakeQuantize)]
    from_calibration = bool(own) and any(f"{prefix}{path}.{_SWITCH}" not in state for path in incoming.values())
    for name, fake_quant in own:
        path = incoming.pop(canonical(name), None)
        entries = fake_quant.state_dict(prefix=f"{prefix}{name}.")
        if path is not None and len(path) > len(name):
            continue  # a boundary there, inside the BPU here: another plan
        if path is not None:
            given = {key: state[key] for key in state if key.startswith(f"{prefix}{path}.")}
            if given.keys() - {f"{prefix}{path}.{REACH}"} == entries.keys() - {f"{prefix}{name}.{REACH}"}:
                continue
            _set_reach(fake_quant, _reach(given, f"{prefix}{path}.", fake_quant.bits))
            for key in given:
                del state[key]
        elif not (from_calibration and _is_parameters(name)):
            continue  # strict loading names what is missing
        state.update(fake_quant.state_dict(prefix=f"{prefix}{name}."))
    return from_calibration


def reset_weight_scales(module: nn.Module) -> None:
    """Take the weight scales of every layer from its weights as they are now."""
    for layer in module.modules():
        if isinstance(layer, QATLayer):
            layer.reset_weight_scale()


def _incoming(state: dict[str, Any], prefix: str) -> dict[str, str]:
    """Canonical path -> path, of the fake quants in a state dict."""
    found = {}
    for key in state:
        path, _, last = key.rpartition(".")
        if key.startswith(prefix) and last in (_SWITCH, REACH):
            found[canonical(path[len(prefix) :])] = path[len(prefix) :]
    return found


def _reach(given: dict[str, Tensor], prefix: str, bits: int) -> Tensor:
    """The magnitude at the end of the grid that a fake quant's entries tell of; empty where it has seen nothing."""
    if prefix + REACH in given:
        return given[prefix + REACH]
    low, high = (given.get(f"{prefix}{_PART}.{name}") for name in ("min_val", "max_val"))
    learned = bool(given.get(f"{prefix}initialized", torch.zeros(1)).any())
    if low is None or high is None or learned:
        scale = given.get(f"{prefix}{_PART}.fixed_scale", given.get(f"{prefix}scale"))
        return (
            torch.empty(0, dtype=torch.float32) if scale is None else torch_arithmetic.range_from_scale(scale.detach(), bits)[1]
        )
    seen = low.numel() > 0 and bool((low <= high).all())
    return torch.maximum(-low, high).clamp(min=0.0) if seen else torch.empty(0, dtype=torch.float32)


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
