"""From a float model and options to its plan: trace, lower, run the prepare pipeline. Prepare, explain and re-planning ask here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from hqc.errors import InputError
from hqc.frontend.fx import LoweredModel, as_traceable, leaf_paths, lower_graph_module, trace
from hqc.frontend.fx.assumptions import ASSUMPTIONS_META
from hqc.frontend.fx.leaf_modules import LeafSpec
from hqc.frontend.fx.updates import FROZEN_META
from hqc.ir import Graph
from hqc.passes.base import PassContext, Remark
from hqc.passes.dumps import DumpSink
from hqc.passes.plan import Plan
from hqc.quantization.qconfig import get_default_qconfig
from hqc.quantization.qconfig_dict import QConfigResolver
from hqc.workflow.activation_configs import ActivationConfigs, activation_configs
from hqc.workflow.onnx_files import is_onnx
from hqc.workflow.opaque_costs import unwritable_remarks
from hqc.workflow.opaque_onnx import note_opaque
from hqc.workflow.options import CompileOptions
from hqc.workflow.pipelines import prepare_pipeline

logger = logging.getLogger("hqc")


@dataclass
class PlannedModel:
    """`traced`: the FX GraphModule over the modules of `root`. `lowered.graph`: the IR, planned. `configs`: the user's qconfigs.

    `output_names`: of the float model. `remarks`: what the passes had to say. `context`: what they read; `float_graph`: the IR before
    them, where it was asked for.
    """

    root: nn.Module
    traced: fx.GraphModule
    lowered: LoweredModel
    configs: ActivationConfigs
    output_names: tuple[str, ...]
    remarks: list[Remark]
    context: PassContext
    float_graph: Graph | None = None

    @property
    def graph(self) -> Graph:
        return self.lowered.graph

    @property
    def plan(self) -> Plan:
        """The devices as plain data."""
        return Plan.from_graph(self.graph)


def plan_model(
    root: nn.Module,
    options: CompileOptions,
    inputs: tuple[Any, ...] | None,
    *,
    dump_dir: str | Path | DumpSink | None = None,
    keep_float: bool = False,
) -> PlannedModel:
    """The plan of the float model `root` (not changed) for inputs of these shapes; without them, where shapes do not matter.

    `keep_float`: keep a copy of the IR as it was before planning.
    """
    traced = trace(root, inputs, leaf_modules=options.leaf_modules, concrete_args=options.concrete_args)
    if options.form == "qat":
        _refuse_frozen_buffers(traced)
    lowered = lower_graph_module(traced, inputs)
    note_opaque(lowered)
    output_names = tuple(lowered.graph.output_names)
    entries = options.qconfig
    if entries is None and options.form == "ptq":
        entries = {"": get_default_qconfig(activation_observer="mse", weight_observer="mse")}
    configs = activation_configs(QConfigResolver(entries, root), traced.graph, lowered.graph)
    high_precision = None if options.form == "ptq" else configs.without_activation
    lowered.graph.march = options.march
    if options.form == "ptq":
        lowered.graph.settle_parameters()
    float_graph = lowered.graph.clone() if keep_float else None
    context = options.context(high_precision=high_precision, qconfigs=configs.table)
    report = prepare_pipeline(options).run(lowered.graph, context, dump_dir=dump_dir)
    assumed = [Remark("trace", str(item), item.node) for item in traced.meta.get(ASSUMPTIONS_META, ())]
    remarks = [*assumed, *unwritable_remarks(lowered.graph), *report.remarks]
    return PlannedModel(root, traced, lowered, configs, output_names, remarks, context, float_graph)


def has_no_stubs(model: Any) -> bool:
    """True for models that cannot have stubs of their own: export takes stubs for the identity that they are, ONNX has none."""
    return isinstance(model, torch.export.ExportedProgram) or is_onnx(model)


def _refuse_frozen_buffers(traced: fx.GraphModule) -> None:
    """What forward changes has to change in training too."""
    for name, why in traced.meta.get(FROZEN_META, {}).items():
        raise InputError(
            f"forward changes the buffer {name} in a way that the traced graph cannot repeat in training: {why}; change it outside of "
            "forward, or name the module that does it in leaf_modules"
        )


def given_model(model: Any, leaf_modules: Sequence[LeafSpec] = ()) -> tuple[nn.Module, tuple[LeafSpec, ...]]:
    """What the user gave as a model as a torch module, and `leaf_modules` as they hold for copies of it.

    Says (as a warning) what was converted; `InputError` for what cannot be traced at all.
    """
    module, sentences = as_traceable(model)
    for sentence in sentences:
        logger.warning("%s", sentence)
    return module, tuple(leaf_paths(module, leaf_modules))
