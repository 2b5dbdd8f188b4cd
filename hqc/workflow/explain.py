"""`hqc.explain`: the plan of a float model before any training or calibration, by the passes that prepare and compile run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hqc.frontend.fx import lower_graph_module, trace
from hqc.march import March, all_specs, get_spec
from hqc.metrics.placement import MarchComparison
from hqc.quantization.qconfig import get_default_calib_qconfig, get_default_qat_qconfig
from hqc.workflow.arguments import as_tuple
from hqc.workflow.explanation import Explanation, compare_marches
from hqc.workflow.model_copy import copy_model
from hqc.workflow.opaque_onnx import note_opaque
from hqc.workflow.options import CompileOptions, Edit, Form
from hqc.workflow.planning import given_model, plan_model


def explain(
    model: nn.Module,
    example_inputs: Any,
    *,
    march: str | March,
    form: Form = "ptq",
    hybrid: bool = True,
    hybrid_dict: Mapping[str, Sequence[Any]] | None = None,
    qconfig_dict: Mapping[str, Any] | None = None,
    optimize_graph: bool | None = None,
    keep_batch_norm: bool = False,
    min_macs: float = 0.0,
    min_nodes: int = 0,
    edits: Sequence[Edit] = (),
    concrete_args: Mapping[str, Any] | None = None,
    leaf_modules: Sequence[Any] = (),
) -> Explanation:
    """Where every operation of a float model will run and why; no data, no training, and the model is left untouched.

    `form`: `ptq` shows what `hqc.compile` does, `qat` and `calibration` what `prepare_*_fx` does (stubs are then the model's own).
    `example_inputs`: a tensor or tuple that fixes the shapes; None where only what does not depend on shapes is asked. The other
    arguments, and their defaults in each form, are those of `hqc.compile` and `prepare_qat_fx`; without `qconfig_dict` the form's
    default is in force everywhere. What this accepts, the entry points of that form accept; it raises what they raise.
    """
    exported = isinstance(model, torch.export.ExportedProgram)  # export takes stubs for the identity that they are
    model, leaves = given_model(model, leaf_modules)
    defaults = {"qat": get_default_qat_qconfig, "calibration": get_default_calib_qconfig}
    options = CompileOptions.of(
        march,
        form=form,
        hybrid=hybrid,
        hybrid_dict=hybrid_dict,
        qconfig=qconfig_dict or ({"": defaults[form]()} if form in defaults else None),
        optimize_graph=form == "ptq" if optimize_graph is None else optimize_graph,
        keep_batch_norm=keep_batch_norm,
        min_macs=min_macs,
        min_nodes=min_nodes,
        edits=tuple(edits),
        concrete_args=concrete_args,
        leaf_modules=leaves,
        stub_inputs=exported,
    )
    return explain_model(model, example_inputs, options)


def explain_model(model: nn.Module, example_inputs: Any, options: CompileOptions) -> Explanation:
    """`explain` for options that are at hand."""
    model, _ = given_model(model)
    planned = plan_model(copy_model(model), options, as_tuple(example_inputs))
    return Explanation(options, planned.graph, tuple(planned.remarks))


def compare(model: nn.Module, example_inputs: Any, options: CompileOptions | None = None) -> MarchComparison:
    """The same model on every march."""
    model, _ = given_model(model)
    lowered = lower_graph_module(trace(model, example_inputs), example_inputs)
    note_opaque(lowered)
    return compare_marches(lowered.graph, options, specs=[get_spec(spec.name) for spec in all_specs()])
