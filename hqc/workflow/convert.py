"""`convert_fx`: the fixed-point model, torch tensors in and out, computed by the integer simulator."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from hqc.checked import checked, explained
from hqc.errors import InputError
from hqc.frontend.fx.copying import deep_copy
from hqc.quantization.state import FakeQuantState
from hqc.quantization.switches import set_fake_quantize
from hqc.workflow.arguments import tensors_of
from hqc.workflow.deferred import refuse_waiting
from hqc.workflow.deploy import check_ready, deploy, warn_of_rescaling
from hqc.workflow.deployment import Deployment
from hqc.workflow.options import custom_config
from hqc.workflow.prepared import USER_CLASS, GraphModuleWithAttr, ObservedGraphModule, be_instance_of, become
from hqc.workflow.quantized_tree import quantized_tree
from hqc.workflow.runner import Runner, as_tensors, restore
from hqc.workflow.saving import saved_model
from hqc.workflow.states import part_of_state
from hqc.workflow.traced import packed, simulate


@explained
class QuantizedGraphModule(GraphModuleWithAttr, nn.Module):
    """The converted model. It runs on the CPU whatever device its inputs are on, and returns tensors on that device.

    A program is compiled at the first forward for each batch size and kept.
    """

    def __init__(self, prepared: ObservedGraphModule, deployment: Deployment | None) -> None:
        super().__init__()
        self._runner = Runner(prepared, deployment)
        self._take_tree()

    def _take_tree(self) -> None:
        """Children, buffers and parameters as they are now. They print, and are found by name; the program is what computes."""
        prepared = self._runner.prepared
        self._modules = dict(quantized_tree(prepared))
        self._buffers, self._parameters = dict(prepared._buffers), dict(prepared._parameters)
        self._non_persistent_buffers_set = set(prepared._non_persistent_buffers_set)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    # --- state: that of the model that was converted, scales included ----------------------------------------------------------

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        own: Any = self._runner.prepared.state_dict(prefix=prefix, keep_vars=keep_vars)
        destination.update(own)
        if hasattr(destination, "_metadata"):
            destination._metadata.update(own._metadata)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Take over parameters and scales, of a converted model or of one to convert; the program is compiled anew."""
        own = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        prepared = self._runner.prepared
        try:
            found = prepared.load_state_dict(part_of_state(state_dict, own, prefix), strict=False)
        except RuntimeError as error:
            error_msgs.extend(str(error).splitlines()[1:])
            return
        missing_keys += [prefix + key for key in found.missing_keys]
        unexpected_keys += [prefix + key for key in found.unexpected_keys]
        set_fake_quantize(prepared, FakeQuantState.VALIDATION)
        self._runner = Runner(check_ready(prepared))
        self._take_tree()

    @property
    def prepared(self) -> ObservedGraphModule:
        """The prepared model that was converted: a copy, with its scales."""
        return self._runner.prepared

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
        if torch._C._get_tracing_state() is not None:
            return self._traced(args)
        tensors = (leaf for leaf in tensors_of(args) if isinstance(leaf, torch.Tensor))
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        return as_tensors(self._runner.run(args), device)

    def __reduce__(self) -> Any:
        return _restored, (dict(self.__dict__),)

    def _traced(self, args: tuple[Any, ...]) -> Any:
        """The forward that `torch.jit.trace` sees: one operation, with the compiled model as a constant."""
        prepared = self._runner.prepared
        with _not_traced():
            deployment = self._runner.program(self._runner.arguments(args))[0]
            program = packed(saved_model(prepared, deployment, [], {}))
        given = [leaf for leaf in tensors_of(args) if isinstance(leaf, torch.Tensor)]
        return restore(prepared, deployment.outputs, simulate(given, program))

    def extra_repr(self) -> str:
        march = self._runner.prepared.preparation.options.march
        return f"march={march}, integer simulator"


@contextlib.contextmanager
def _not_traced() -> Iterator[None]:
    """Work on tensors that is no part of the trace in progress."""
    bindings: Any = torch._C
    state = bindings._get_tracing_state()
    bindings._set_tracing_state(None)
    try:
        yield
    finally:
        bindings._set_tracing_state(state)


def _restored(state: dict[str, Any]) -> QuantizedGraphModule:
    module = QuantizedGraphModule.__new__(QuantizedGraphModule)
    module.__dict__.update(state)
    if USER_CLASS in state:
        be_instance_of(module, state[USER_CLASS])
    return module


@checked
def convert_fx(
    graph_module: nn.Module,
    convert_custom_config_dict: Mapping[str, Any] | None = None,
    _remove_qconfig: bool = True,
    *,
    inplace: bool = False,
    fast_mode: bool = False,
) -> QuantizedGraphModule:
    """The fixed-point model of a prepared and calibrated (or trained) model, for accuracy evaluation.

    `graph_module` is left as it is; its batch norms must be in eval mode (`InputError`). `convert_custom_config_dict`:
    `preserved_attributes` names attributes to copy (all plain attributes are copied anyway). `_remove_qconfig`: drop `qconfig`
    attributes from what is copied. `inplace`: `graph_module` itself becomes the converted model. `fast_mode`: accepted; the simulator
    takes the fastest exact engine anyway.
    """
    del fast_mode
    refuse_waiting(graph_module, "convert")
    prepared = check_ready(graph_module)
    _refuse_training_batch_norm(prepared)
    preserved = custom_config(convert_custom_config_dict, "convert_custom_config_dict", ("preserved_attributes",), prepared)
    frozen = copy.deepcopy(prepared)
    deployment = None if prepared.preparation.inputs is None else deploy(frozen)
    if deployment is not None:
        warn_of_rescaling(deployment)
    converted = QuantizedGraphModule(frozen, deployment)
    for name, value in vars(prepared).items():
        if name.startswith("_") or name in vars(converted) or name in ("preparation", "training", "meta"):
            continue
        if name == "qconfig" and _remove_qconfig:
            continue
        setattr(converted, name, deep_copy(value))
    for name in preserved:
        if name not in vars(converted):
            setattr(converted, name, deep_copy(getattr(prepared, name)))
    converted.eval()
    return become(prepared, converted) if inplace else converted


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
