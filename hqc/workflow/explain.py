"""`hqc.explain`: the plan of a float model before any training or calibration, by the passes that prepare and compile run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from hqc.errors import InputError
from hqc.frontend.fx import lower_graph_module, trace
from hqc.ir import Graph, Observation
from hqc.march import March, all_specs, get_spec
from hqc.march.spec import MarchSpec
from hqc.metrics.placement import MarchComparison, PlacementReport, placement_report
from hqc.passes.base import Remark
from hqc.quantization.qconfig import get_default_calib_qconfig, get_default_qat_qconfig
from hqc.workflow.arguments import as_tuple
from hqc.workflow.model_copy import copy_model
from hqc.workflow.opaque_onnx import note_opaque
from hqc.workflow.options import CompileOptions, Edit, Form
from hqc.workflow.pipelines import explain_pipeline
from hqc.workflow.planning import plan_model

FORMS = {
    "ptq": "quantized after training, as by hqc.compile",
    "qat": "trained quantized, as by prepare_qat_fx",
    "calibration": "calibrated, as by prepare_calibration_fx",
}


@dataclass(frozen=True)
class Explanation:
    """What `hqc.explain` returns; printing it shows the report. `graph`: the planned IR. `remarks`: what the passes had to say."""

    options: CompileOptions
    graph: Graph
    remarks: tuple[Remark, ...]

    @property
    def placement(self) -> PlacementReport:
        """Where every operation runs, and why."""
        return placement_report(self.graph)

    @property
    def shown(self) -> str:
        """Which model this is the plan of: march, form, and whether the CPU may help out."""
        options = self.options
        hybrid = "" if options.hybrid else ", without CPU fallback (hybrid=False)"
        return f"form {options.form} on {options.march}: {FORMS[options.form]}{hybrid}"

    @property
    def observers(self) -> dict[str, Observation]:
        """What is observed, by value: its dtype, rounding and scale group, and the qconfig entry that decided."""
        values = (value for node in self.graph.nodes for value in node.results)
        return {value.name: value.observation for value in values if value.observation is not None and not value.off_grid}

    def device_of(self, name: str) -> str:
        """`bpu`, `cpu` or `mixed` for a module path, a traced node or a value; `InputError` with near names for another."""
        return self.placement.device_of(name)

    def __str__(self) -> str:
        kinds = Counter(observation.dtype.value for observation in self.observers.values())
        found = ", ".join(f"{count} in {dtype}" for dtype, count in sorted(kinds.items())) or "nothing"
        return f"{self.placement}\nobserved: {found}\n{self.shown}"


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
) -> Explanation:
    """Where every operation of a float model will run and why; no data, no training, and the model is left untouched.

    `form`: `ptq` shows what `hqc.compile` does, `qat` and `calibration` what `prepare_*_fx` does (stubs are then the model's own).
    `example_inputs`: a tensor or tuple that fixes the shapes; None where only what does not depend on shapes is asked. The other
    arguments, and their defaults in each form, are those of `hqc.compile` and `prepare_qat_fx`; without `qconfig_dict` the form's
    default is in force everywhere. What this accepts, the entry points of that form accept; it raises what they raise.
    """
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
    )
    return explain_model(model, example_inputs, options)


def explain_model(model: nn.Module, example_inputs: Any, options: CompileOptions) -> Explanation:
    """`explain` for options that are at hand."""
    if not isinstance(model, nn.Module):
        raise InputError(f"explain needs a torch.nn.Module, got {type(model).__name__}")
    planned = plan_model(copy_model(model), options, as_tuple(example_inputs))
    return Explanation(options, planned.graph, tuple(planned.remarks))


def explain_graph(graph: Graph, options: CompileOptions) -> Explanation:
    """`explain` for a lowered float graph, e.g. of an ONNX file; the graph itself is not changed."""
    graph = graph.clone()
    graph.march = options.march
    report = explain_pipeline(options).run(graph, options.context())
    return Explanation(options, graph, report.remarks)


def compare_marches(
    graph: Graph, options: CompileOptions | None = None, *, specs: Iterable[MarchSpec] | None = None
) -> MarchComparison:
    """Place a lowered float graph on every march (default: all), as form `ptq`; the graph itself is not changed."""
    chosen = list(specs if specs is not None else all_specs())
    base = replace(options or CompileOptions(chosen[0].name), form="ptq")
    return MarchComparison(tuple(explain_graph(graph, base.on(spec.name)).placement for spec in chosen))


def compare(model: nn.Module, example_inputs: Any, options: CompileOptions | None = None) -> MarchComparison:
    """The same model on every march."""
    lowered = lower_graph_module(trace(model, example_inputs), example_inputs)
    note_opaque(lowered)
    return compare_marches(lowered.graph, options, specs=[get_spec(spec.name) for spec in all_specs()])
