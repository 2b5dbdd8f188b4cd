"""`convert_fx`: the fixed-point model, torch tensors in and out, computed by the integer simulator."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from hqc.backends.bpu import Program, compile
from hqc.errors import InputError
from hqc.workflow.deploy import Deployment, as_numpy, check_ready, deploy
from hqc.workflow.prepared import ObservedGraphModule


class QuantizedGraphModule(nn.Module):
    """The converted model. It runs on the CPU whatever device its inputs are on, and returns tensors on that device.

    A program is compiled at the first forward for each batch size and kept.
    """

    def __init__(self, prepared: ObservedGraphModule, deployment: Deployment | None) -> None:
        super().__init__()
        self._prepared = [prepared]  # in a list: not a submodule, so that the converted model has no float parameters
        self._deployment = deployment
        self._programs: dict[tuple[tuple[int, ...], ...], Program] = {}
        output = next(node for node in prepared.graph.nodes if node.op == "output").args[0]
        _, self._output_spec = pytree.tree_flatten(output)

    @property
    def graph(self) -> Any:
        """The integer IR graph; available after the first forward when shapes were unknown before."""
        return None if self._deployment is None else self._deployment.integer

    @property
    def opaque(self) -> Mapping[str, Any]:
        """Callables of the graph's opaque operations."""
        return {} if self._deployment is None else self._deployment.opaque

    def forward(self, *args: Any) -> Any:
        leaves = [leaf for leaf in pytree.tree_leaves(list(args)) if leaf is not None]
        device = next((leaf.device for leaf in leaves if isinstance(leaf, torch.Tensor)), torch.device("cpu"))
        arrays = [as_numpy(leaf, f"number {index}") for index, leaf in enumerate(leaves)]
        program = self._program(args, arrays)
        results = program.run(dict(zip(program.input_names, arrays, strict=True)))
        tensors = [torch.from_numpy(np.ascontiguousarray(results[name])).to(device) for name in program.output_names]
        return pytree.tree_unflatten(tensors, self._output_spec)

    def _program(self, args: tuple[Any, ...], arrays: list[np.ndarray[Any, Any]]) -> Program:
        key = tuple(array.shape for array in arrays)
        if key not in self._programs:
            if self._deployment is None:
                self._deployment = deploy(self._prepared[0], args)
            inputs = self._deployment.integer.inputs
            if len(inputs) != len(arrays):
                raise InputError(f"the model takes {len(inputs)} input(s), got {len(arrays)}")
            graph = self._deployment
            if key != tuple(value.shape for value in inputs):
                batch = {array.shape[0] for array in arrays if array.ndim}
                if len(batch) != 1:
                    raise InputError(f"inputs disagree about the batch size: {', '.join(str(list(a.shape)) for a in arrays)}")
                graph = self._deployment.with_batch(batch.pop())
            self._programs[key] = compile(graph.integer, opaque=graph.opaque)
        return self._programs[key]

    def extra_repr(self) -> str:
        march = self._prepared[0].preparation.options.march
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
    unknown = sorted(set(convert_custom_config_dict or {}) - {"preserved_attributes"})
    if unknown:
        raise InputError(f"convert_custom_config_dict has unknown keys {', '.join(unknown)}; known: preserved_attributes")
    frozen = copy.deepcopy(prepared)
    deployment = None if prepared.preparation.inputs is None else deploy(frozen)
    converted = QuantizedGraphModule(frozen, deployment)
    for name, value in vars(prepared).items():
        if name.startswith("_") or name in vars(converted) or name in ("preparation", "training", "meta"):
            continue
        if name == "qconfig" and _remove_qconfig:
            continue
        setattr(converted, name, copy.deepcopy(value))
    for name in (convert_custom_config_dict or {}).get("preserved_attributes", ()):
        if not hasattr(prepared, name):
            raise InputError(f"preserved_attributes names {name}, which the model does not have")
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
