"""`prepare_calibration_fx` and `prepare_qat_fx`: trace, lower, run the passes, replay the plan on the FX graph.

The caller's model is copied, never changed. The prepared parameters are copies: build the optimizer after prepare.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from hqc.errors import InputError, OverrideError
from hqc.frontend import LoweredModel, lower_graph_module, trace
from hqc.ir import Graph, Trait
from hqc.march import get_march, get_spec
from hqc.passes.base import PassContext, Remark
from hqc.passes.default import prepare_pipeline
from hqc.passes.overrides import parse_hybrid_dict
from hqc.passes.plan import Plan
from hqc.passes.unify_cat_scales import shared_scale_groups
from hqc.quantization.carry import carry_over
from hqc.quantization.prepared import (
    ObservedGraphModule,
    Preparation,
    PrepareOptions,
    keep_module_tree,
    record_and_check_inputs,
    to_meta,
)
from hqc.quantization.qconfig_dict import QConfigResolver
from hqc.quantization.replay import Replay

logger = logging.getLogger("hqc")
CUSTOM_CONFIG_KEYS = ("preserved_attributes",)


def prepare_qat_fx(
    model: nn.Module,
    qconfig_dict: Mapping[str, Any] | None = None,
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
    optimize_graph: bool = False,
    hybrid: bool = False,
    hybrid_dict: Mapping[str, Sequence[Any]] | None = None,
    *,
    example_inputs: Any = None,
) -> ObservedGraphModule:
    """A copy of `model` with fake quants where the deployed model quantizes, ready to train.

    `model`: a float module, the result of `fuse_fx`, or a calibrated model from `prepare_calibration_fx` (its scales are
    carried over). `qconfig_dict`: keys `""`, `module_type`, `module_name` in rising priority; `module.qconfig` wins over all.
    `optimize_graph`: members of a shared-scale group share one fake quant (effective on bernoulli). `hybrid`: operations the
    BPU cannot run go to the CPU; without it they are an error. `hybrid_dict`: operations to place on the CPU
    (`module_name`, `module_type`, and more: see docs). `example_inputs`: a tensor or tuple; with it shape limits are judged
    now, otherwise at the first forward.

    Raises `HqcError` subclasses with one sentence about the model.
    """
    return _prepare(
        model, qconfig_dict, prepare_custom_config_dict, optimize_graph, hybrid, hybrid_dict, example_inputs, kind="qat"
    )


def prepare_calibration_fx(
    model: nn.Module,
    qconfig_dict: Mapping[str, Any] | None = None,
    prepare_custom_config_dict: Mapping[str, Any] | None = None,
    optimize_graph: bool = False,
    hybrid: bool = False,
    hybrid_dict: Mapping[str, Sequence[Any]] | None = None,
    *,
    example_inputs: Any = None,
) -> ObservedGraphModule:
    """As `prepare_qat_fx`, for calibration: use a calibration qconfig and run a few forwards in eval mode."""
    return _prepare(
        model, qconfig_dict, prepare_custom_config_dict, optimize_graph, hybrid, hybrid_dict, example_inputs, kind="calibration"
    )


def as_tuple(inputs: Any) -> tuple[Any, ...] | None:
    """Example inputs as the positional arguments of forward."""
    if inputs is None:
        return None
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def plan_graph(
    lowered: LoweredModel, options: PrepareOptions, *, auto_stub: bool = False, dump_dir: Any = None, form: str = "qat"
) -> tuple[Graph, list[Remark]]:
    """The bounded graph of a lowered float model: where everything runs and where the boundaries are."""
    spec = get_spec(options.march)
    overrides = parse_hybrid_dict(options.hybrid_dict)
    context = PassContext(spec, hybrid=options.hybrid, overrides=overrides)
    lowered.graph.march = spec.name
    report = prepare_pipeline(form=form, auto_stub=auto_stub).run(lowered.graph, context, dump_dir=dump_dir)
    return lowered.graph, list(report.remarks)


def plan_for(float_model: nn.Module, example_inputs: tuple[Any, ...] | None, options: PrepareOptions) -> Plan:
    """The placement of a float model, from nothing but the model, shapes and options."""
    graph, _ = plan_graph(lower_graph_module(trace(float_model), example_inputs), options)
    return Plan.from_graph(graph)


def _prepare(
    model: nn.Module,
    qconfig_dict: Mapping[str, Any] | None,
    custom: Mapping[str, Any] | None,
    optimize_graph: bool,
    hybrid: bool,
    hybrid_dict: Mapping[str, Any] | None,
    example_inputs: Any,
    *,
    kind: str,
    dump_dir: Any = None,
) -> ObservedGraphModule:
    if not isinstance(model, nn.Module):
        raise InputError(f"prepare needs a torch.nn.Module, got {type(model).__name__}")
    _check_custom_config(custom)
    if hybrid_dict and not hybrid:
        raise OverrideError("hybrid_dict places operations on the CPU and needs hybrid=True")
    calibrated = model if isinstance(model, ObservedGraphModule) else None
    options = PrepareOptions(
        get_march().value, hybrid, optimize_graph, {key: list(value) for key, value in (hybrid_dict or {}).items()}, kind
    )
    inputs = as_tuple(example_inputs)
    if calibrated is not None:
        source = calibrated.preparation.float_model
        if inputs is None and calibrated.preparation.inputs is not None:
            from hqc.quantization.prepared import from_meta

            inputs = from_meta(calibrated.preparation.inputs)
    else:
        source = model
    float_model = source if calibrated is not None else copy.deepcopy(source)
    root = copy.deepcopy(float_model)
    gm = trace(root)
    lowered = lower_graph_module(gm, inputs)
    graph, remarks = plan_graph(lowered, options, dump_dir=dump_dir)
    spec = get_spec(options.march)
    resolver = QConfigResolver(qconfig_dict, root)
    modules_of = {name: node.loc.module for node in graph.nodes for name in node.origin}

    def qconfig_of(fx_node: fx.Node) -> Any:
        if fx_node.op == "call_module":
            return resolver.resolve(str(fx_node.target))
        return resolver.resolve(_enclosing_module(fx_node, modules_of))

    groups: dict[str, str] = {}
    if optimize_graph and not spec.requantize_at_cat:
        groups = {value.name: group.name for group in shared_scale_groups(graph, spec) for value in group.values}
    Replay(gm, root, graph, spec, qconfig_of, wrap_boundaries=kind == "qat", groups=groups).run()
    prepared = ObservedGraphModule(
        root, gm.graph, _class_name(source), Preparation(float_model, Plan.from_graph(graph), options, remarks=[str(r) for r in remarks])
    )
    keep_module_tree(prepared, root)
    prepared.train(model.training)
    for remark in remarks:
        if remark.severity == "warning":
            logger.warning("%s", remark)
    if calibrated is not None:
        carry_over(calibrated, prepared)
    prepared.preparation.inputs = None if inputs is None else to_meta(inputs)
    prepared.register_forward_pre_hook(record_and_check_inputs)
    return prepared


def _enclosing_module(fx_node: fx.Node, modules_of: Mapping[str, str]) -> str:
    if fx_node.op == "call_method" and fx_node.args and isinstance(fx_node.args[0], fx.Node) and fx_node.args[0].op == "get_attr":
        return str(fx_node.args[0].target)
    return modules_of.get(fx_node.name, "")


def _class_name(model: nn.Module) -> str:
    return model.__class__.__name__


def _check_custom_config(custom: Mapping[str, Any] | None) -> None:
    unknown = sorted(set(custom or {}) - set(CUSTOM_CONFIG_KEYS))
    if unknown:
        raise InputError(f"prepare_custom_config_dict has unknown keys {', '.join(unknown)}; known: {', '.join(CUSTOM_CONFIG_KEYS)}")


def high_precision_outputs(graph: Graph) -> list[str]:
    """Names of conv-like results that leave the BPU as int32."""
    return [n.name for n in graph.nodes if n.op.has(Trait.CONV_LIKE) and n.result.quant is None]


def device_of(module: nn.Module) -> torch.device:
    """The device of the first parameter or buffer; CPU for a module without any."""
    tensor = next(iter(module.parameters()), None)
    if tensor is None:
        tensor = next(iter(module.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device
