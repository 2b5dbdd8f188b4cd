"""The values of a model's operations, whatever stage it is at: float, calibrated, trained, converted, or a trace of a converted one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hqc.analysis.compare.operations import Operation, operations_of
from hqc.analysis.compare.views import FakeQuantView, FloatView, OtherFakeQuantView, SimulatorView
from hqc.errors import InputError
from hqc.frontend.fx import trace
from hqc.frontend.fx.copying import in_eval_mode
from hqc.workflow.arguments import as_tuple, given_to
from hqc.workflow.convert import QuantizedGraphModule
from hqc.workflow.deferred import refuse_waiting
from hqc.workflow.model_copy import copy_model
from hqc.workflow.prepared import ObservedGraphModule
from hqc.workflow.runner import Runner
from hqc.workflow.runs import Run

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Feature:
    """One operation's result. `module`: path of the module that holds it, or the traced name. `scale`, `dtype`: of its grid, if any."""

    name: str
    module: str
    op: str
    data: Array
    scale: Array | None
    dtype: str


def features(models: Sequence[nn.Module], inputs: Any) -> list[dict[str, Feature]]:
    """For each model the results of its operations by IR name, in program order; operations of one network have one name.

    One of the models must be prepared or converted: its plan says what the operations are. A single float model has the results of its
    traced calls.
    """
    arguments = as_tuple(inputs) or ()
    for model in models:
        refuse_waiting(model, "the analysis")
    planned = next((each for each in reversed(models) if isinstance(each, (ObservedGraphModule, QuantizedGraphModule))), None)
    if planned is None:
        if len(models) > 1:
            raise InputError("one of the two models must be a prepared or a converted one, whose operations are compared")
        return [_traced(models[0], arguments)]
    prepared = planned.prepared if isinstance(planned, QuantizedGraphModule) else planned
    runner = planned._runner if isinstance(planned, QuantizedGraphModule) else Runner(prepared)
    deployment = runner.program(runner.arguments(arguments))[0]
    operations = operations_of(prepared, deployment.scaled)
    results = []
    for model in models:
        values = _view(model, prepared, runner, operations).values(runner.arguments(arguments), deployment.scaled)[0]
        results.append(
            {each.ir_value: _feature(each, values[each.ir_value], model) for each in operations if each.ir_value in values}
        )
    return results


def _view(model: nn.Module, prepared: ObservedGraphModule, runner: Runner, operations: list[Operation]) -> Any:
    if isinstance(model, QuantizedGraphModule):
        return SimulatorView(model._runner)
    if model is prepared:
        return FakeQuantView(prepared, operations)
    if isinstance(model, ObservedGraphModule):
        return OtherFakeQuantView(model, operations, Runner(model))
    if not isinstance(model, nn.Module):
        raise InputError(f"an analysis takes models, got {type(model).__name__}")
    view = FloatView(prepared, operations)
    view.module = trace(in_eval_mode(copy_model(model)), None, leaf_modules=prepared.preparation.options.leaf_modules).eval()
    return view


def _feature(operation: Operation, data: Array, model: nn.Module) -> Feature:
    quantized = isinstance(model, (ObservedGraphModule, QuantizedGraphModule)) and operation.quant is not None
    quant = operation.quant if quantized else None
    name = operation.name
    return Feature(
        name.name,
        name.module or name.name,
        name.op,
        np.asarray(data),
        None if quant is None else quant.scale,
        "float32" if quant is None else f"q{quant.dtype.numpy.name}",
    )


def _traced(model: nn.Module, arguments: tuple[Any, ...]) -> dict[str, Feature]:
    module = trace(in_eval_mode(copy_model(model)), arguments).eval()
    with given_to(arguments):
        run = Run(module, arguments)
    found = {}
    for node, value in run.values.items():
        if isinstance(value, torch.Tensor) and node.op in ("call_module", "call_function", "call_method"):
            target = str(node.target) if node.op == "call_module" else node.name
            kind = (
                type(module.get_submodule(target)).__name__
                if node.op == "call_module"
                else str(getattr(node.target, "__name__", node.target))
            )
            found[node.name] = Feature(node.name, target, kind, value.detach().cpu().numpy(), None, "float32")
    return found
