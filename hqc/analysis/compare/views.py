"""The models that are compared, each as values by operation: float, fake-quantized, simulator, exported file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from torch import Tensor

from hqc import arithmetic
from hqc.analysis.compare.operations import Operation, operations_of
from hqc.backends.onnx.emit import emit
from hqc.backends.onnx.verify import run_model
from hqc.errors import ExportError, InputError
from hqc.frontend.fx import trace
from hqc.frontend.fx.copying import in_eval_mode
from hqc.ir import Graph
from hqc.quantization.switches import quantizing
from hqc.workflow.arguments import from_meta, tensors_of
from hqc.workflow.model_copy import copy_model
from hqc.workflow.prepared import ObservedGraphModule
from hqc.workflow.runner import Runner, arrays_of
from hqc.workflow.runs import Run

Array = npt.NDArray[Any]
Results = dict[str, Array]


class View(Protocol):
    """`values(arguments, graph)`: real results of operations, by `Operation.ir_value`, and the outputs in order, for one batch.

    `graph`: the scaled IR for the batch's shapes. Operations that the view does not have are left out.
    """

    def values(self, arguments: Sequence[Any], graph: Graph) -> tuple[Results, list[Array]]: ...


class FloatView:
    """The user's model, traced."""

    def __init__(self, prepared: ObservedGraphModule, operations: Sequence[Operation]) -> None:
        preparation = prepared.preparation
        options = preparation.options
        inputs = None if preparation.inputs is None else from_meta(preparation.inputs)
        model = in_eval_mode(copy_model(preparation.float_model))
        self.module = trace(model, inputs, leaf_modules=options.leaf_modules, concrete_args=options.concrete_args).eval()
        self.operations = operations

    def values(self, arguments: Sequence[Any], graph: Graph) -> tuple[Results, list[Array]]:
        run = Run(self.module, arguments)
        by_name = {node.name: node for node in self.module.graph.nodes}
        order = {name: index for index, name in enumerate(by_name)}
        found = {}
        for operation in self.operations:
            present = [name for name in operation.float_names if name in by_name]
            value = run.values[by_name[max(present, key=order.__getitem__)]] if present else None
            if isinstance(value, Tensor):
                found[operation.ir_value] = _array(value)
        return found, _outputs(run)


class FakeQuantView:
    """An emitted model with its fake quants on."""

    def __init__(self, prepared: ObservedGraphModule, operations: Sequence[Operation]) -> None:
        self.prepared, self.operations = prepared, operations
        self.last: Run | None = None

    def values(self, arguments: Sequence[Any], graph: Graph) -> tuple[Results, list[Array]]:
        with quantizing(self.prepared):
            run = self.last = Run(self.prepared, arguments)
        values = ((operation.ir_value, run.values[operation.value]) for operation in self.operations)
        return {name: _array(value) for name, value in values if isinstance(value, Tensor)}, _outputs(run)


class OtherFakeQuantView(FakeQuantView):
    """Another emitted model of the same float model: its operations are found by their traced names."""

    def __init__(self, prepared: ObservedGraphModule, operations: Sequence[Operation], runner: Runner) -> None:
        deployment = runner.deployment
        assert deployment is not None
        theirs = {name: each for each in operations_of(prepared, deployment.scaled) for name in each.name.fx}
        super().__init__(prepared, list({id(each): each for each in theirs.values()}.values()))
        self._names = {
            theirs[name].ir_value: operation.ir_value
            for operation in operations
            for name in operation.name.fx
            if name in theirs
        }

    def values(self, arguments: Sequence[Any], graph: Graph) -> tuple[Results, list[Array]]:
        values, outputs = super().values(arguments, graph)
        return {self._names[name]: array for name, array in values.items() if name in self._names}, outputs


class SimulatorView:
    """The integer program."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    def values(self, arguments: Sequence[Any], graph: Graph) -> tuple[Results, list[Array]]:
        deployment, program = self.runner.program(tuple(arguments))
        feeds = _feeds(deployment.integer, arguments)
        kept = program.run(feeds, keep=True)
        found = {
            name: _real(deployment.scaled, name, array) for name, array in kept.items() if name in deployment.scaled.values
        }
        return found, [np.asarray(kept[name]) for name in program.output_names]


class ExportedView:
    """An exported file in onnxruntime, as it says, node by node.

    The nodes of hb_mapper's domain run nowhere else: of the flavour `horizon` the file's `runnable` twin is run. `InputError` for a
    file that is none of hqc's.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            model = onnx.load_model(os.fspath(path))
        except Exception as error:  # protobuf's exceptions share no base with others
            raise InputError(f"cannot read {os.fspath(path)} as an ONNX file: {error}") from None
        self.path = os.fspath(path)
        self.properties = {each.key: each.value for each in model.metadata_props}
        if "flavour" not in self.properties:
            raise InputError(f"{self.path} was not written by hqc: it says nothing of its flavour")
        self.model = model

    def values(self, arguments: Sequence[Any], graph: Graph) -> tuple[Results, list[Array]]:
        horizon = self.properties["flavour"] == "horizon"
        model = emit(graph, flavour="runnable") if horizon else self.model
        tensors = _tensors_of(model, graph)
        model = _with_outputs(model, list(tensors.values()))
        feeds = _feeds(graph, arguments)
        wanted = {info.name for info in model.graph.input}
        if wanted != set(feeds):
            raise ExportError(f"{self.path} takes {', '.join(sorted(wanted))}, the model {', '.join(feeds)}")
        results = run_model(model, feeds)
        found = {name: _real(graph, name, results[tensor]) for name, tensor in tensors.items()}
        count = len(graph.outputs)
        return found, [results[info.name] for info in model.graph.output[:count]]


def _tensors_of(model: onnx.ModelProto, graph: Graph) -> dict[str, str]:
    """IR value -> the tensor that holds it: the last one of its node, which is called as the value, or `<value>/...`."""
    names = {value.name for node in graph.nodes for value in node.results}
    found: dict[str, str] = {}
    for node in model.graph.node:
        for tensor in node.output:
            owner = tensor.split("/")[0]
            if owner in names:
                found[owner] = tensor
    return found


def _with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    present = {info.name for info in copied.graph.output}
    copied.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(tensors) if name not in present)
    return copied


def _feeds(graph: Graph, arguments: Sequence[Any]) -> dict[str, Array]:
    return {
        value.name: np.asarray(leaf).astype(value.type.dtype.numpy, copy=False)
        for value, leaf in zip(graph.inputs, tensors_of(arguments), strict=True)
    }


def _real(graph: Graph, name: str, array: Array) -> Array:
    value = graph.values[name]
    if value.quant is None or array.dtype.kind == "f":
        return array
    return arithmetic.dequantize(array, value.quant.scale, value.quant.axis)


def _array(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy()


def _outputs(run: Run) -> list[Array]:
    return [_array(each) if isinstance(each, Tensor) else np.asarray(each) for each in arrays_of(run.outputs)]
