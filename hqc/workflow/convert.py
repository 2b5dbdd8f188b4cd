"""`convert_fx`: the fixed-point model, torch tensors in and out, computed by the integer simulator."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hqc.errors import InputError
from hqc.workflow.arguments import tensors_of
from hqc.workflow.deploy import check_ready, deploy
from hqc.workflow.deployment import Deployment
from hqc.workflow.options import custom_config
from hqc.workflow.prepared import ObservedGraphModule
from hqc.workflow.runner import Runner, as_tensors


class QuantizedGraphModule(nn.Module):
    """The converted model. It runs on the CPU whatever device its inputs are on, and returns tensors on that device.

    A program is compiled at the first forward for each batch size and kept.
    """

    def __init__(self, prepared: ObservedGraphModule, deployment: Deployment | None) -> None:
        super().__init__()
        self._runner = Runner(prepared, deployment)  # no submodule, so that the converted model has no float parameters

    @property
    def graph(self) -> Any:
        """The integer IR graph; available after the first forward when shapes were unknown before."""
        deployment = self._runner.deployment
        return None if deployment is None else deployment.integer

    def deployment(self, *args: Any) -> Deployment:
        """The graphs for inputs of these shapes."""
        return self._runner.program(self._runner.arguments(args))[0]

    @property
    def opaque(self) -> Mapping[str, Any]:
        """Callables of the graph's opaque operations."""
        deployment = self._runner.deployment
        return {} if deployment is None else deployment.opaque

    def forward(self, *args: Any) -> Any:
        tensors = (leaf for leaf in tensors_of(args) if isinstance(leaf, torch.Tensor))
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        return as_tensors(self._runner.run(args), device)

    def extra_repr(self) -> str:
        march = self._runner.prepared.preparation.options.march
        return f"march={march}, integer simulator"


def convert_fx(
    graph_module: nn.Module,
    convert_custom_config_dict: Mapping[str, Any] | None = None,
    _remove_qconfig: bool = True,
) -> QuantizedGraphModule:
    """The fixed-point model of a prepared and calibrated (or trained) model, for accuracy evaluation.

    `graph_module` is left as it is; its batch norms must be in eval mode (`InputError`). `convert_custom_config_dict`:
    `preserved_attributes` names attributes to copy (all plain attributes are copied anyway). `_remove_qconfig`: drop `qconfig`
    attributes from what is copied.
    """
    prepared = check_ready(graph_module)
    _refuse_training_batch_norm(prepared)
    preserved = custom_config(convert_custom_config_dict, "convert_custom_config_dict", ("preserved_attributes",), prepared)
    frozen = copy.deepcopy(prepared)
    deployment = None if prepared.preparation.inputs is None else deploy(frozen)
    converted = QuantizedGraphModule(frozen, deployment)
    for name, value in vars(prepared).items():
        if name.startswith("_") or name in vars(converted) or name in ("preparation", "training", "meta"):
            continue
        if name == "qconfig" and _remove_qconfig:
            continue
        setattr(converted, name, copy.deepcopy(value))
    for name in preserved:
        if name not in vars(converted):
            setattr(converted, name, copy.deepcopy(getattr(prepared, name)))
    converted.eval()
    return converted


def _refuse_training_batch_norm(prepared: ObservedGraphModule) -> None:
    """What is converted uses the running statistics; a batch norm in training mode would have given other results until now."""
    training = [
        name
        for name, module in prepared.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
    ]
    if training:
        raise InputError(
            f"{', '.join(training[:5])}{' and more' if len(training) > 5 else ''}: batch norm in training mode normalizes with the "
            "statistics of the batch, which a converted model cannot; call eval() on the model and evaluate it before convert_fx"
        )
