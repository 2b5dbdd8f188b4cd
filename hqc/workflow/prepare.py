"""`prepare_calibration_fx` and `prepare_qat_fx`: trace, lower, run the passes, replay the plan on the FX graph.

The caller's model is copied, never changed. The prepared parameters are copies: build the optimizer after prepare.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx, nn

from hqc.errors import InputError, OverrideError
from hqc.frontend.fx import LoweredModel, lower_graph_module, trace
from hqc.ir import Graph
from hqc.march import March, get_march, get_spec
from hqc.passes.base import PassContext, Remark
from hqc.passes.default import prepare_pipeline
from hqc.passes.overrides import parse_hybrid_dict
from hqc.passes.plan import Plan
from hqc.passes.qconfigs import QConfigTable
from hqc.quantization.qconfig_dict import QConfigResolver
from hqc.workflow.activation_configs import activation_configs
from hqc.workflow.carry import carry_over
from hqc.workflow.opaque_onnx import note_opaque, unwritable_remarks
from hqc.workflow.prepared import (
    ObservedGraphModule,
    Preparation,
    PrepareOptions,
    as_tuple,
    from_meta,
    keep_module_tree,
    record_and_check_inputs,
    to_meta,
)
from hqc.workflow.replay import Replay

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
    keep_batch_norm: bool = False,
) -> ObservedGraphModule:
    """A copy of `model` with fake quants where the deployed model quantizes, ready to train.

    `model`: a float module, the result of `fuse_fx`, or a calibrated model from `prepare_calibration_fx` (its scales are
    carried over). `qconfig_dict`: keys `""`, `module_type`, `module_name` in rising priority; `module.qconfig` wins over all.
    `optimize_graph`: members of a shared-scale group share one fake quant (effective on bernoulli). `hybrid`: operations the
    BPU cannot run go to the CPU; without it they are an error. `hybrid_dict`: operations to place on the CPU
    (`module_name`, `module_type`, and more: see docs). `example_inputs`: a tensor or tuple; with it shape limits are judged
    now, otherwise at the first forward. `keep_batch_norm`: batch norms behind convolutions stay inside the fused layer and go on
    following the batches' statistics, until conversion and export fold them; by default prepare folds them.

    Raises `HqcError` subclasses with one sentence about the model.
    """
    _check_custom_config(prepare_custom_config_dict, model)
    return prepare(
        model,
        qconfig_dict,
        march=get_march(),
        optimize_graph=optimize_graph,
        hybrid=hybrid,
        hybrid_dict=hybrid_dict,
        example_inputs=example_inputs,
        kind="qat",
        keep_batch_norm=keep_batch_norm,
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
    _check_custom_config(prepare_custom_config_dict, model)
    return prepare(
        model,
        qconfig_dict,
        march=get_march(),
        optimize_graph=optimize_graph,
        hybrid=hybrid,
        hybrid_dict=hybrid_dict,
        example_inputs=example_inputs,
        kind="calibration",
    )


def plan_graph(
    lowered: LoweredModel,
    options: PrepareOptions,
    *,
    high_precision: frozenset[str] | None = None,
    qconfigs: QConfigTable | None = None,
    dump_dir: Any = None,
) -> tuple[Graph, list[Remark]]:
    """The plan of a lowered float model: where everything runs, where the boundaries are, who is observed."""
    spec = get_spec(options.march)
    context = PassContext(
        spec,
        hybrid=options.hybrid,
        overrides=parse_hybrid_dict(options.hybrid_dict),
        high_precision=high_precision,
        qconfigs=qconfigs,
    )
    lowered.graph.march = spec.name
    pipeline = prepare_pipeline(
        auto_stub=options.kind == "ptq", min_macs=options.min_macs, min_nodes=options.min_nodes, share=options.optimize_graph
    )
    report = pipeline.run(lowered.graph, context, dump_dir=dump_dir)
    return lowered.graph, list(report.remarks)


def plan_for(
    float_model: nn.Module,
    example_inputs: tuple[Any, ...] | None,
    options: PrepareOptions,
    high_precision: frozenset[str] | None,
) -> Plan:
    """The placement of a float model, from nothing but the model, shapes and options."""
    graph, _ = plan_graph(
        lower_graph_module(trace(float_model, example_inputs), example_inputs), options, high_precision=high_precision
    )
    return Plan.from_graph(graph)


def prepare(
    model: nn.Module,
    qconfig_dict: Mapping[str, Any] | None,
    *,
    march: March,
    optimize_graph: bool,
    hybrid: bool,
    hybrid_dict: Mapping[str, Any] | None,
    example_inputs: Any,
    kind: str,
    keep_batch_norm: bool = False,
    min_macs: float = 0.0,
    min_nodes: int = 0,
    dump_dir: Any = None,
) -> ObservedGraphModule:
    """The one way from a float model to a prepared one; `kind`: `qat`, `calibration`, or `ptq` (what `hqc.compile` asks for:
    stubs are inserted where the BPU reads a graph input, and convolutions that end a BPU segment emit int32). `min_macs` and
    `min_nodes` are options of the pass `partition`."""
    if not isinstance(model, nn.Module):
        raise InputError(f"prepare needs a torch.nn.Module, got {type(model).__name__}")
    if hybrid_dict and not hybrid:
        raise OverrideError("hybrid_dict places operations on the CPU and needs hybrid=True")
    calibrated = model if isinstance(model, ObservedGraphModule) else None
    options = PrepareOptions(
        march.value, hybrid, optimize_graph, dict(hybrid_dict or {}), kind, keep_batch_norm, min_macs, min_nodes
    )
    inputs = as_tuple(example_inputs)
    if calibrated is not None:
        float_model = calibrated.preparation.float_model
        if inputs is None and calibrated.preparation.inputs is not None:
            inputs = from_meta(calibrated.preparation.inputs)
    else:
        float_model = copy.deepcopy(model)
    root = copy.deepcopy(float_model)
    gm = trace(root, inputs)
    lowered = lower_graph_module(gm, inputs)
    note_opaque(lowered)
    output_names = tuple(lowered.graph.output_names)
    resolver = QConfigResolver(qconfig_dict, root)
    qconfigs = QConfigs(resolver, lowered.graph)
    configs = activation_configs(resolver, gm.graph, lowered.graph)
    high_precision = None if kind == "ptq" else configs.without_activation
    graph, remarks = plan_graph(lowered, options, high_precision=high_precision, qconfigs=configs.table, dump_dir=dump_dir)
    remarks[:0] = unwritable_remarks(graph)
    spec = get_spec(options.march)
    Replay(
        gm,
        root,
        graph,
        spec,
        qconfigs,
        configs.qconfigs,
        wrap_boundaries=kind == "qat",
        keep_batch_norm=keep_batch_norm,
    ).run()
    preparation = Preparation(
        float_model, Plan.from_graph(graph), options, high_precision, output_names=output_names, remarks=remarks
    )
    prepared = ObservedGraphModule(root, gm.graph, type(float_model).__name__, preparation)
    keep_module_tree(prepared, root)
    prepared.graph.lint()
    prepared.train(model.training)
    for remark in remarks:
        if remark.severity == "warning":
            logger.warning("%s", remark)
    if calibrated is not None:
        carry_over(calibrated, prepared)
    preparation.inputs = None if inputs is None else to_meta(inputs)
    prepared.register_forward_pre_hook(record_and_check_inputs)
    return prepared


class QConfigs:
    """The qconfig in force at each FX node: a module's own, a function's or method's that of its enclosing module."""

    def __init__(self, resolver: QConfigResolver, graph: Graph) -> None:
        self.resolver = resolver
        self.modules = {name: node.loc.module for node in graph.nodes for name in node.origin}

    def __call__(self, fx_node: fx.Node) -> Any:
        if fx_node.op == "call_module":
            return self.resolver.resolve(str(fx_node.target))
        owner = fx_node.args[0] if fx_node.op == "call_method" and fx_node.args else None
        if isinstance(owner, fx.Node) and owner.op == "get_attr":
            return self.resolver.resolve(str(owner.target))
        return self.resolver.resolve(self.modules.get(fx_node.name, ""))


def _check_custom_config(custom: Mapping[str, Any] | None, model: nn.Module) -> None:
    unknown = sorted(set(custom or {}) - set(CUSTOM_CONFIG_KEYS))
    if unknown:
        raise InputError(
            f"prepare_custom_config_dict has unknown keys {', '.join(unknown)}; known: {', '.join(CUSTOM_CONFIG_KEYS)}"
        )
    for name in (custom or {}).get("preserved_attributes", ()):
        if not hasattr(model, name):
            raise InputError(f"preserved_attributes names {name}, which the model does not have")
