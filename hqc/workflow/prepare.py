"""`prepare_calibration_fx` and `prepare_qat_fx`: trace, lower, run the passes, emit the planned model.

The caller's model is copied, never changed. The prepared parameters are copies: build the optimizer after prepare.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import fx, nn

from hqc.checked import checked
from hqc.frontend.fx.copying import deep_copy
from hqc.march import get_march
from hqc.quantization.qat_mode import keeps_batch_norm
from hqc.quantization.state import FakeQuantState
from hqc.quantization.switches import set_fake_quantize
from hqc.workflow.arguments import as_float32_inputs, from_meta, to_meta
from hqc.workflow.carry import carry_over
from hqc.workflow.deferred import prepare_or_defer
from hqc.workflow.emit import emit
from hqc.workflow.faithful import require_faithful
from hqc.workflow.model_copy import copy_model
from hqc.workflow.onnx_files import as_torch
from hqc.workflow.options import CompileOptions, Edit, Form, custom_config
from hqc.workflow.plain_torch import plain_torch
from hqc.workflow.planning import PlannedModel, given_model, has_no_stubs, plan_model
from hqc.workflow.prepared import ObservedGraphModule, Preparation, keep_module_tree
from hqc.workflow.replan import emission_of

logger = logging.getLogger("hqc")
CUSTOM_CONFIG_KEYS = ("preserved_attributes",)
_LARGE = 1 << 20  # bytes of a weight that is worth sharing


@checked
def prepare_qat_fx(
    model: Any,
    qconfig_dict: Mapping[str, Any] | None = None,
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
    optimize_graph: bool = False,
    hybrid: bool = False,
    hybrid_dict: Mapping[str, Sequence[Any]] | None = None,
    *,
    example_inputs: Any = None,
    keep_batch_norm: bool | None = None,
    edits: Sequence[Edit] = (),
    concrete_args: Mapping[str, Any] | None = None,
    leaf_modules: Sequence[Any] = (),
) -> ObservedGraphModule:
    """A copy of `model` with fake quants where the deployed model quantizes, ready to train.

    `model`: a float module, the result of `fuse_fx`, or a calibrated model from `prepare_calibration_fx` (its scales are
    carried over). `qconfig_dict`: keys `""`, `module_type`, `module_name` in rising priority; `module.qconfig` wins over all.
    `optimize_graph`: members of a shared-scale group share one scale (effective on bernoulli). `hybrid`: operations the
    BPU cannot run go to the CPU; without it they are an error. `hybrid_dict`: operations to place on the CPU
    (`module_name`, `module_type`, and more: see docs). `example_inputs`: a tensor or tuple; with it shape limits are judged
    now, otherwise at the first forward, and where nothing can be planned without shapes, the whole model is planned then.
    `keep_batch_norm`: batch norms behind convolutions stay inside the fused layer and go on following the batches' statistics,
    until conversion and export fold them; False: prepare folds them; None: as `set_qat_mode` says (by default, folded). `edits`:
    passes of your own, from `hqc.workflow.pipelines.edit`. `concrete_args`: arguments of forward that are constants, with their values.
    `leaf_modules`: modules (classes, paths or instances) that run as they are, on the CPU.

    `model` may also be a `torch.export.ExportedProgram`, an `fx.GraphModule`, or an ONNX file (a path or an `onnx.ModelProto`), whose
    shapes `example_inputs` need not repeat.

    Raises `HqcError` subclasses with one sentence about the model.
    """
    return _prepared(
        "qat",
        model,
        prepare_custom_config_dict,
        example_inputs,
        leaf_modules,
        qconfig=qconfig_dict,
        optimize_graph=optimize_graph,
        hybrid=hybrid,
        hybrid_dict=hybrid_dict,
        keep_batch_norm=keeps_batch_norm() if keep_batch_norm is None else keep_batch_norm,
        edits=edits,
        concrete_args=concrete_args,
    )


@checked
def prepare_calibration_fx(
    model: Any,
    qconfig_dict: Mapping[str, Any] | None = None,
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
    optimize_graph: bool = False,
    hybrid: bool = False,
    hybrid_dict: Mapping[str, Sequence[Any]] | None = None,
    *,
    example_inputs: Any = None,
    edits: Sequence[Edit] = (),
    concrete_args: Mapping[str, Any] | None = None,
    leaf_modules: Sequence[Any] = (),
) -> ObservedGraphModule:
    """As `prepare_qat_fx`, for calibration: use a calibration qconfig and run a few forwards in eval mode."""
    return _prepared(
        "calibration",
        model,
        prepare_custom_config_dict,
        example_inputs,
        leaf_modules,
        qconfig=qconfig_dict,
        optimize_graph=optimize_graph,
        hybrid=hybrid,
        hybrid_dict=hybrid_dict,
        edits=edits,
        concrete_args=concrete_args,
    )


def _prepared(
    form: Form, model: Any, custom: Mapping[str, Any] | None, example_inputs: Any, leaf_modules: Sequence[Any], **options: Any
) -> ObservedGraphModule:
    """What the two calls do with what they are given; `options`: as for `CompileOptions.of`."""
    stubless = has_no_stubs(model)
    model, example_inputs = as_torch(model, example_inputs)
    model, leaves = given_model(model, leaf_modules)
    custom_config(custom, "prepare_custom_config_dict", CUSTOM_CONFIG_KEYS, model)
    chosen = CompileOptions.of(get_march(), form=form, leaf_modules=leaves, stub_inputs=stubless, **options)
    prepared: ObservedGraphModule = prepare_or_defer(model, chosen, example_inputs)
    arguments = None if isinstance(model, ObservedGraphModule) else as_float32_inputs(model, example_inputs)
    if arguments is not None:
        require_faithful(prepared, arguments)
    return prepared


@plain_torch()
def prepare(
    model: nn.Module, options: CompileOptions, example_inputs: Any = None, *, dump_dir: str | Path | None = None
) -> ObservedGraphModule:
    """The one way from a float model (or a calibrated one, whose scales are carried over) to a prepared one."""
    model, _ = given_model(model)
    calibrated = model if isinstance(model, ObservedGraphModule) else None
    inputs = as_float32_inputs(model, example_inputs)
    if calibrated is not None:
        float_model = calibrated.preparation.float_model
        if inputs is None and calibrated.preparation.inputs is not None:
            inputs = from_meta(calibrated.preparation.inputs)
    else:
        float_model = copy_model(model)
    # hqc.compile trains nothing: a second copy of large weights would only be memory
    shared = {id(each): each for each in float_model.parameters() if _is_large(each)} if options.form == "ptq" else {}
    planned = plan_model(deep_copy(float_model, dict(shared)), options, inputs, dump_dir=dump_dir)
    preparation = Preparation(
        float_model, planned.plan, options, output_names=planned.output_names, remarks=planned.remarks, shares=bool(shared)
    )
    preparation.emission = emission_of(planned.graph)
    graph = emit_planned(planned, options)
    prepared = ObservedGraphModule(planned.root, graph, type(float_model).__name__, preparation)
    keep_module_tree(prepared, planned.root)
    prepared.train(model.training)
    if options.form == "calibration":
        set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    for remark in planned.remarks:
        if remark.severity == "warning":
            logger.warning("%s", remark)
    if calibrated is not None:
        carry_over(calibrated, prepared)
    preparation.inputs = None if inputs is None else to_meta(inputs)
    return prepared


def _is_large(tensor: nn.Parameter) -> bool:
    return tensor.numel() * tensor.element_size() >= _LARGE


def emit_planned(planned: PlannedModel, options: CompileOptions) -> fx.Graph:
    """The graph of the emitted model; `planned.root` gets its layers and inserted modules."""
    return emit(
        planned.traced,
        planned.root,
        planned.lowered,
        options.spec,
        planned.configs,
        wrap_boundaries=options.form == "qat",
        keep_batch_norm=options.keep_batch_norm,
        trains=options.form != "ptq",
    )
