"""Carry parameters and calibrated scales from one prepared model to another with the same plan."""

from __future__ import annotations

from hqc.errors import CalibrationError
from hqc.quantization.prepared import ObservedGraphModule
from hqc.quantization.replay import fake_quants


def carry_over(source: ObservedGraphModule, target: ObservedGraphModule) -> None:
    """Copy float parameters by name, and activation scales from each calibrated fake quant to the one in its place.

    `CalibrationError` when a carried activation fake quant was never calibrated.
    """
    state = {key: value for key, value in source.state_dict().items() if "fake_quant" not in key and "post_process" not in key}
    own = target.state_dict()
    target.load_state_dict({key: value for key, value in state.items() if key in own and own[key].shape == value.shape}, strict=False)
    scales = {_key(name): fake_quant for name, fake_quant in fake_quants(source)}
    for name, fake_quant in fake_quants(target):
        if "weight_fake_quant" in name or "bias_fake_quant" in name:
            fake_quant.reset_from_parameter()
            continue
        calibrated = scales.get(_key(name))
        if calibrated is None:
            continue
        if not calibrated.calibrated:
            raise CalibrationError(
                f"{name} was never calibrated: run a few forwards of the calibration model in eval mode before prepare_qat_fx"
            )
        fake_quant.carry_scale(calibrated)


def _key(name: str) -> str:
    """Path of a fake quant without the wrapper that boundary fake quants print in."""
    head = name.removesuffix(".activation_post_process") if name.count("activation_post_process") > 1 else name
    return head
