"""From a prepared model to the graphs that back ends take: lower again, now with scales, and run the deploy pipeline."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hqc.errors import CalibrationError, InputError
from hqc.frontend.fx import LoweredModel, lower_graph_module
from hqc.frontend.fx.lowered import ValueName
from hqc.ir import Trait
from hqc.ir.rules import CAT_SCALES_UNIFIED
from hqc.passes.dumps import DumpSink
from hqc.passes.unify_cat_scales import UnifyCatScales
from hqc.quantization.fake_quantize import FakeQuantizeBase, fake_quant_of, fake_quants
from hqc.workflow.arguments import from_meta
from hqc.workflow.deployment import Deployment
from hqc.workflow.folded_weights import with_folded_weight_scales
from hqc.workflow.opaque_onnx import note_opaque
from hqc.workflow.pipelines import deploy_pipeline, integer_pipeline
from hqc.workflow.prepared import ObservedGraphModule

logger = logging.getLogger(__name__)


def check_ready(prepared: nn.Module) -> ObservedGraphModule:
    """`prepared` as a prepared, calibrated model; `CalibrationError` names fake quants that have seen no data."""
    if not isinstance(prepared, ObservedGraphModule):
        raise InputError(
            f"expected a model from prepare_qat_fx or prepare_calibration_fx, got {type(prepared).__name__}; prepare it first"
        )
    missing = [name for name, fake_quant in fake_quants(prepared) if not fake_quant.calibrated]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise CalibrationError(
            f"{len(missing)} fake quants have no scale yet ({shown}); run calibration data (or training steps) through the prepared "
            "model before converting or exporting it"
        )
    return prepared


def deploy(
    prepared: nn.Module,
    example_inputs: tuple[Any, ...] | None = None,
    *,
    dump_dir: str | Path | DumpSink | None = None,
    integer: bool = True,
) -> Deployment:
    """Lower a prepared model and run the deploy pipeline.

    `example_inputs`: positional inputs of forward; default: zeros of the shapes that the model was last run with. With
    `integer=False` the integer graph is the scaled one (enough to export fake-quant ONNX).
    """
    model = check_ready(prepared)
    preparation = model.preparation
    if example_inputs is None:
        if preparation.inputs is None:
            raise InputError("the shapes of the inputs are not known: run the prepared model once, or pass example inputs")
        example_inputs = from_meta(preparation.inputs)
    lowered = lower_graph_module(model, example_inputs)
    opaque = note_opaque(lowered)
    options = with_folded_weight_scales(preparation.options, model)
    graph = lowered.graph
    graph.march = options.march
    if options.form == "ptq":
        graph.settle_parameters()
    # The prepared model may return a fake quant's result; the user knows the operation's name.
    graph.set_outputs(graph.outputs, preparation.output_names)
    context = options.context(plan=preparation.plan)
    remarks = list(deploy_pipeline(options).run(graph, context, dump_dir=dump_dir).remarks)
    final = graph
    if integer:
        final = graph.clone()
        # A folder of its own: a pipeline run clears the dumps of the run before it.
        integer_dumps = Path(dump_dir) / "integer" if isinstance(dump_dir, (str, Path)) else dump_dir
        remarks += integer_pipeline(options).run(final, context, dump_dir=integer_dumps).remarks
    return Deployment(graph, final, opaque, lowered.outputs, remarks, _rescaled(model, lowered))


def _rescaled(model: ObservedGraphModule, lowered: LoweredModel) -> dict[str, float]:
    """Scales of the planned graph that differ from those of the model's fake quants, where cats tie values together."""
    found: dict[str, float] = {}
    if CAT_SCALES_UNIFIED not in lowered.graph.properties:
        return found
    for node in model.graph.nodes:
        fake_quant = _fake_quant_at(model, str(node.target)) if node.op == "call_module" else None
        named = lowered.values.get(node.name)
        value = lowered.graph.current(named.name) if isinstance(named, ValueName) else None
        if fake_quant is not None and value is not None and value.quant is not None and not value.quant.per_channel:
            scale = float(value.quant.scale)
            if scale != float(fake_quant.calculate_qparams()[0]):
                found[str(node.target)] = scale
    return found


def _fake_quant_at(model: nn.Module, path: str) -> FakeQuantizeBase | None:
    """The fake quant of activations that a module is or has."""
    module = model.get_submodule(path)
    return fake_quant_of(module) or fake_quant_of(getattr(module, "activation_post_process", None))


def take_deployed_scales(model: nn.Module, deployment: Deployment) -> None:
    """Let a prepared model compute with the scales that its values are deployed with."""
    for path, scale in deployment.rescaled.items():
        fake_quant = _fake_quant_at(model, path)
        assert fake_quant is not None
        fake_quant.fix_scale(scale)


def warn_of_rescaling(deployment: Deployment) -> None:
    """Say which values are deployed with other scales than they were trained with, and what that costs."""
    for remark in deployment.remarks if deployment.rescaled else ():
        if remark.pass_name == UnifyCatScales.name and remark.severity == "warning":
            logger.warning("%s", remark)


def without_calls(deployment: Deployment) -> Deployment:
    """The plain data of a deployment: what only torch can run is reached through functions, which the prepared model has too."""
    return replace(deployment, opaque={})


def with_calls(deployment: Deployment, prepared: ObservedGraphModule) -> Deployment:
    """`without_calls` undone: the opaque operations, from the prepared model lowered again for the same shapes."""
    if not any(node.op.has(Trait.OPAQUE) for node in deployment.scaled.nodes):
        return deployment
    values = iter(deployment.scaled.inputs)
    inputs = pytree.tree_map_only(
        torch.Tensor,
        lambda like: torch.zeros(next(values).shape or (), dtype=like.dtype),
        list(prepared.preparation.inputs or ()),
    )
    return replace(deployment, opaque=note_opaque(lower_graph_module(prepared, tuple(inputs))))
