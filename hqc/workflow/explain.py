"""`hqc.explain`: the plan of a float model before any training or calibration, by the passes that prepare and compile run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hqc.checked import checked
from hqc.errors import InputError
from hqc.march import March, all_specs, get_spec
from hqc.metrics.placement import MarchComparison
from hqc.workflow.explanation import Explanation, compare_marches, explain_graph
from hqc.workflow.onnx_files import as_torch, is_onnx, lower_file
from hqc.workflow.options import CompileOptions, Edit, Form, given_qconfig
from hqc.workflow.plain_torch import plain_torch

if TYPE_CHECKING:
    from torch import nn

    from hqc.frontend.onnx import FileScales
    from hqc.ir import Graph
    from hqc.workflow.prepared import ObservedGraphModule


@checked
def explain(
    model: Any,
    example_inputs: Any = None,
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
    `model`: as for `hqc.compile`; an ONNX file needs no torch here in form `ptq`. `example_inputs`: a tensor, tuple or dict that fixes
    the shapes; None where only what does not depend on shapes is asked, and for the shapes that an ONNX file states. The other
    arguments, and their defaults in each form, are those of `hqc.compile` and `prepare_qat_fx`; without `qconfig_dict` the form's
    default is in force everywhere. What this accepts, the entry points of that form accept; it raises what they raise.
    """
    options: dict[str, Any] = {
        "hybrid": hybrid,
        "hybrid_dict": hybrid_dict,
        "optimize_graph": form == "ptq" if optimize_graph is None else optimize_graph,
        "keep_batch_norm": keep_batch_norm,
        "min_macs": min_macs,
        "min_nodes": min_nodes,
        "edits": edits,
    }
    if not isinstance(form, str):
        raise InputError(f"form must be ptq, qat or calibration, got {form!r:.80}")
    if is_onnx(model) and form == "ptq" and not given_qconfig(qconfig_dict) and not _asks_for_types(hybrid_dict):
        return _explain_file(model, example_inputs, CompileOptions.of(march, **options))
    from hqc.quantization.qconfig import QConfig, get_default_calib_qconfig, get_default_qat_qconfig
    from hqc.workflow.planning import given_model, has_no_stubs

    stubless = has_no_stubs(model)
    model, example_inputs = as_torch(model, example_inputs)
    model, leaves = given_model(model, leaf_modules)
    defaults: dict[str, Callable[[], QConfig]] = {"qat": get_default_qat_qconfig, "calibration": get_default_calib_qconfig}
    return explain_model(
        model,
        example_inputs,
        CompileOptions.of(
            march,
            form=form,
            qconfig=given_qconfig(qconfig_dict) or ({"": defaults[form]()} if form in defaults else None),
            concrete_args=concrete_args,
            leaf_modules=leaves,
            stub_inputs=stubless,
            **options,
        ),
    )


def _asks_for_types(hybrid_dict: Mapping[str, Any] | None) -> bool:
    """True where operations are placed by the class of their module, which only the torch form of a file has."""
    found = hybrid_dict if isinstance(hybrid_dict, Mapping) else {}
    inner = [found[key] for key in ("cpu", "bpu") if isinstance(found.get(key), Mapping)]
    return any("module_type" in each for each in (found, *inner))


def _explain_file(model: Any, example_inputs: Any, options: CompileOptions) -> Explanation:
    """An ONNX file; one that is quantized as `hqc.compile` places it with the scales that it brings."""
    graph, scales = _float_graph(model, example_inputs)
    if scales is None:
        return explain_graph(graph, options)
    from hqc.workflow.quantized_file import placed_by_scales

    options, remarks = placed_by_scales(graph, scales, options)
    found = explain_graph(graph, options)
    return replace(found, remarks=(*remarks, *found.remarks))


def _float_graph(model: Any, example_inputs: Any) -> tuple[Graph, FileScales | None]:
    """The float graph of an ONNX file, whose kept nodes know what they cost; and the scales of one that is quantized."""
    from hqc.frontend.onnx import is_quantized, take_scales
    from hqc.workflow.onnx_call import note_kept

    lowered = lower_file(model, example_inputs)
    quantized = is_quantized(lowered.graph)
    scales = take_scales(lowered.graph)
    note_kept(lowered.graph, lowered.opaque)
    return lowered.graph, scales if quantized else None


@plain_torch()
def explain_model(model: nn.Module, example_inputs: Any, options: CompileOptions) -> Explanation:
    """`explain` for options that are at hand."""
    from hqc.workflow.arguments import as_float32_inputs
    from hqc.workflow.model_copy import copy_model
    from hqc.workflow.planning import given_model, plan_model

    model, _ = given_model(model)
    planned = plan_model(copy_model(model), options, as_float32_inputs(model, example_inputs), keep_float=True)
    assert planned.float_graph is not None
    return Explanation(options, planned.graph, tuple(planned.remarks), planned.float_graph, planned.context)


def explain_prepared(prepared: ObservedGraphModule) -> Explanation:
    """`explain` for the float model behind a prepared one, with the options that it was prepared with."""
    from hqc.workflow.arguments import from_meta

    preparation = prepared.preparation
    inputs = None if preparation.inputs is None else from_meta(preparation.inputs)
    return explain_model(preparation.float_model, inputs, preparation.options)


def compare(model: Any, example_inputs: Any = None, options: CompileOptions | None = None) -> MarchComparison:
    """The same model on every march."""
    specs = [get_spec(spec.name) for spec in all_specs()]
    if is_onnx(model):
        return compare_marches(_float_graph(model, example_inputs)[0], options, specs=specs)
    from hqc.frontend.fx import lower_graph_module, trace
    from hqc.workflow.opaque_onnx import note_opaque
    from hqc.workflow.planning import given_model

    model, _ = given_model(model)
    lowered = lower_graph_module(trace(model, example_inputs), example_inputs)
    note_opaque(lowered)
    return compare_marches(lowered.graph, options, specs=specs)
