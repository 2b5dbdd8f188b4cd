"""`export_to_onnx`: the reference's call, written by hqc's own ONNX back end."""

from __future__ import annotations

import inspect
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn
from torch.onnx import OperatorExportTypes, TrainingMode

from hqc.analysis.picture import draw
from hqc.backends import onnx
from hqc.checked import checked
from hqc.errors import ExportError, InputError
from hqc.frontend.fx.copying import deep_copy, in_eval_mode
from hqc.lazy import lazily
from hqc.march import get_march
from hqc.quantization.fake_quantize import fake_quants
from hqc.quantization.state import FakeQuantState
from hqc.quantization.switches import set_fake_quantize
from hqc.workflow.arguments import as_tuple, tensors_of, to_meta
from hqc.workflow.binding import as_numpy
from hqc.workflow.convert import QuantizedGraphModule
from hqc.workflow.deferred import settled_copy
from hqc.workflow.deploy import deploy, take_deployed_scales, warn_of_rescaling
from hqc.workflow.explain import explain_model
from hqc.workflow.options import CompileOptions
from hqc.workflow.prepared import ObservedGraphModule
from hqc.workflow.references import ModelReference
from hqc.workflow.replan import settle_plan

logger = logging.getLogger("hqc")


@checked
def export_to_onnx(
    model: nn.Module,
    args: Any,
    f: str | os.PathLike[str] | IO[bytes],
    export_params: bool = True,
    verbose: bool = False,
    training: Any = TrainingMode.EVAL,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    operator_export_type: Any = OperatorExportTypes.ONNX_FALLTHROUGH,
    opset_version: int = 11,
    do_constant_folding: bool = True,
    example_outputs: Any = None,
    strip_doc_string: bool = True,
    dynamic_axes: Any = None,
    keep_initializers_as_inputs: bool | None = None,
    custom_opsets: Mapping[str, int] | None = None,
    enable_onnx_checker: bool = False,
) -> onnx.ExportReport | None:
    """Write the opset-11 ONNX file of a prepared model (or of a converted one, for a look at its integers; of a float model, for a
    look at where its operations will run: the devices on the chosen march are in the nodes' metadata).

    `args`: inputs that fix the shapes (a tensor or tuple; a dict at its end names the inputs that follow, as for
    `torch.onnx.export`). `f`: path or binary file object; beside a path `<stem>.yaml` is
    written. `input_names`, `output_names`: names in the file. `verbose`: log the IR. A model that was never calibrated is
    exported with scales taken from `args`, for a check of its structure. The file is executed and compared with the model before
    this returns.

    Fixed by what hb_mapper reads, and refused otherwise: `opset_version` 11, `export_params` True, `training` EVAL, `dynamic_axes`
    None. Accepted for compatibility, without effect: `operator_export_type` (all operators are standard or of the `horizon`
    domain), `do_constant_folding`, `example_outputs`, `strip_doc_string`, `keep_initializers_as_inputs`, `custom_opsets`, and
    `enable_onnx_checker` (the checker always runs).
    """
    del operator_export_type, do_constant_folding, example_outputs, strip_doc_string
    del keep_initializers_as_inputs, custom_opsets, enable_onnx_checker
    if opset_version != 11:
        raise ExportError(f"opset_version must be 11, the only one hb_mapper reads for these models, got {opset_version}")
    if not export_params:
        raise ExportError("export_params=False would write a file without weights, which hb_mapper cannot compile")
    if dynamic_axes:
        raise ExportError("dynamic_axes must be None: the BPU needs static shapes")
    if training not in (None, False, TrainingMode.EVAL):
        raise ExportError(f"training must be TrainingMode.EVAL, got {training}")
    if not isinstance(f, (str, os.PathLike)) and not callable(getattr(f, "write", None)):
        raise ExportError(f"f must be a path or a binary file object, got {type(f).__name__}")
    inputs = _positional(model, args)
    model = settled_copy(model, inputs)
    if isinstance(model, QuantizedGraphModule):
        deployment, flavour = model.deployment(*inputs), "integer"
        graph = deployment.integer
    elif isinstance(model, ObservedGraphModule):
        model = _calibrated_copy(model, inputs)
        deployment = deploy(model, inputs, integer=False)
        take_deployed_scales(model, deployment)
        warn_of_rescaling(deployment)
        graph, flavour = deployment.scaled, "horizon"
    elif isinstance(model, nn.Module):
        _float_picture(model, inputs, f, input_names, output_names)
        return None
    else:
        raise InputError(f"export_to_onnx takes a torch.nn.Module, got {type(model).__name__}")
    opaque = deployment.opaque
    graph = _renamed(graph, input_names, output_names)
    reference = ModelReference(model, inputs, graph.output_names)
    if verbose:
        logger.info("%s", graph)
    arrays = [as_numpy(leaf, str(i)) for i, leaf in enumerate(tensors_of(inputs))]
    samples = dict(zip((value.name for value in graph.inputs), arrays, strict=True))
    if isinstance(f, (str, os.PathLike)):
        return onnx.export(graph, f, flavour=flavour, reference=reference, sample_inputs=samples, opaque=opaque)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        report = onnx.export(graph, path, flavour=flavour, reference=reference, sample_inputs=samples, opaque=opaque)
        f.write(path.read_bytes())
    return report


def _positional(model: nn.Module, args: Any) -> tuple[Any, ...]:
    """`args` of torch.onnx.export as positional inputs: a dict at the end of a tuple has the inputs by name."""
    inputs = as_tuple(args) or ()
    if not isinstance(args, (tuple, list)) or not inputs or not isinstance(inputs[-1], dict):
        return inputs
    *first, named = inputs
    graph = model.prepared.graph if isinstance(model, QuantizedGraphModule) else getattr(model, "graph", None)
    if graph is not None:
        names = [str(node.target).lstrip("*") for node in graph.nodes if node.op == "placeholder"]
    else:
        names = list(inspect.signature(model.forward).parameters)
    if not set(named) <= set(names[len(first) :]):
        return inputs  # the dict is an input itself
    last = max((names.index(name) + 1 for name in named), default=len(first))
    return (*first, *(named.get(name) for name in names[len(first) : last]))


def _float_picture(
    model: nn.Module,
    inputs: tuple[Any, ...],
    f: str | os.PathLike[str] | IO[bytes],
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> None:
    """The float graph for Netron, with the device of each operation on the chosen march in its metadata."""
    graph = explain_model(model, inputs, CompileOptions(get_march(), form="ptq", hybrid=True)).graph
    graph = _renamed(graph, input_names, output_names)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(f) if isinstance(f, (str, os.PathLike)) else Path(folder) / "model.onnx"
        draw(graph, path.with_suffix(".onnx"))
        if not isinstance(f, (str, os.PathLike)):
            f.write(path.read_bytes())


def _calibrated_copy(model: ObservedGraphModule, inputs: tuple[Any, ...]) -> ObservedGraphModule:
    """A frozen copy; fake quants that have seen nothing take their scale from `inputs`."""
    model = in_eval_mode(deep_copy(model))
    settle_plan(model, inputs)  # before any scale is asked for: with the shapes there may be other fake quants
    fresh = [fake_quant for _, fake_quant in fake_quants(model) if not fake_quant.calibrated]
    if fresh:
        logger.warning("%d fake quants were never calibrated; their scales in the file come from the given inputs", len(fresh))
        for _, fake_quant in fake_quants(model):
            fake_quant.disable_observer()
            fake_quant.disable_fake_quant()
        for fake_quant in fresh:
            fake_quant.enable_observer()
        with torch.no_grad():
            model(*inputs)
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    model.preparation.inputs = to_meta(inputs)
    return model


def _renamed(graph: Any, input_names: Sequence[str] | None, output_names: Sequence[str] | None) -> Any:
    """A copy of the graph with the user's input and output names."""
    if not input_names and not output_names:
        return graph
    graph = graph.clone()
    if input_names:
        if len(input_names) != len(graph.inputs):
            raise ExportError(f"input_names has {len(input_names)} names, the model takes {len(graph.inputs)} inputs")
        for value, name in zip(graph.inputs, input_names, strict=True):
            if name in graph.values and graph.value(name) is not value:
                graph.rename(graph.value(name), graph.unique_name(f"{name}_value"))
            graph.rename(value, name)
    if output_names:
        if len(output_names) != len(graph.outputs):
            raise ExportError(f"output_names has {len(output_names)} names, the model returns {len(graph.outputs)} outputs")
        graph.set_outputs(graph.outputs, output_names)
    return graph


__getattr__, _names, _ = lazily(__name__, {"hqc.utils.deploy_calls": ("export_quantized_onnx",)})
