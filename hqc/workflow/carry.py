"""Carry parameters and calibrated scales from one prepared model to another with the same plan."""

from __future__ import annotations

from torch import Tensor, nn

from hqc.nn.qat.kept_batch_norm import KeptBatchNorm
from hqc.nn.qat.layer import QATLayer
from hqc.workflow.prepared import ObservedGraphModule
from hqc.workflow.states import part_of_state, reset_weight_scales, take_over_scales


def carry_over(source: ObservedGraphModule, target: ObservedGraphModule) -> None:
    """Copy float parameters by name, and activation scales from each calibrated fake quant to the one in its place.

    `CalibrationError` when a carried activation fake quant was never calibrated.
    """
    whole = source.state_dict()
    state = {key: value for key, value in whole.items() if "fake_quant" not in key and "post_process" not in key}
    for name, layer in source.named_modules():
        if isinstance(layer, QATLayer):
            _fit_batch_norm(state, name, layer, target)
    own = target.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    target.load_state_dict(part_of_state(whole, fitting), strict=False)
    take_over_scales(source, target)
    reset_weight_scales(target)


def _fit_batch_norm(state: dict[str, Tensor], name: str, layer: QATLayer, target: nn.Module) -> None:
    """Make the entries of a layer that only one of the models keeps the batch norm of fit the other model."""
    try:
        twin = target.get_submodule(name)
    except AttributeError:
        return
    kept, wanted = isinstance(layer, KeptBatchNorm), isinstance(twin, KeptBatchNorm)
    if kept == wanted:
        return
    state.pop(f"{name}.bias", None)
    state.pop(f"{name}.weight")
    if kept:
        weight, bias = layer.deployed_parameters()
        state[f"{name}.weight"] = weight
        if bias is not None:
            state[f"{name}.bias"] = bias
    # Folded parameters cannot be told apart again: the layer that keeps its batch norm starts from the float model's.
