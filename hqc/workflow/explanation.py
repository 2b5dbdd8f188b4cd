"""The plan of a lowered float graph (a traced model's, an ONNX file's) as something to read. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hqc.checked import explained
from hqc.ir import Graph, Observation
from hqc.language import said
from hqc.march import all_specs
from hqc.march.spec import MarchSpec
from hqc.metrics.placement import MarchComparison, PlacementReport, placement_report
from hqc.passes.base import PassContext, Remark
from hqc.workflow.opaque_costs import unwritable_remarks
from hqc.workflow.options import CompileOptions
from hqc.workflow.pipelines import explain_pipeline
from hqc.workflow.reported import Reported

FORMS = {
    "ptq": "quantized after training, as by hqc.compile",
    "qat": "trained quantized, as by prepare_qat_fx",
    "calibration": "calibrated, as by prepare_calibration_fx",
}


@explained
@dataclass(frozen=True)
class Explanation(Reported):
    """What `hqc.explain` returns; printing it shows the report. `graph`: the planned IR. `remarks`: what the passes had to say.

    `float_graph`: the IR before any pass, and `context`: what the passes read; planning it anew gives `graph`.
    """

    options: CompileOptions
    graph: Graph
    remarks: tuple[Remark, ...]
    float_graph: Graph = field(repr=False, compare=False)
    context: PassContext = field(repr=False, compare=False)

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
        """The report in the language in force (`hqc.language`)."""
        kinds = Counter(observation.dtype.value for observation in self.observers.values())
        found = ", ".join(f"{count} in {dtype}" for dtype, count in sorted(kinds.items())) or "nothing"
        return "\n".join((str(self.placement), said(f"observed: {found}"), said(self.shown)))


def explain_graph(graph: Graph, options: CompileOptions) -> Explanation:
    """`explain` for a lowered float graph, e.g. of an ONNX file; the graph itself is not changed."""
    graph, context = graph.clone(), options.context()
    graph.march = options.march
    planned = graph.clone()
    report = explain_pipeline(options).run(planned, context)
    return Explanation(options, planned, (*unwritable_remarks(planned), *report.remarks), graph, context)


def compare_marches(
    graph: Graph, options: CompileOptions | None = None, *, specs: Iterable[MarchSpec] | None = None
) -> MarchComparison:
    """Place a lowered float graph on every march (default: all), as form `ptq`; the graph itself is not changed."""
    chosen = list(specs if specs is not None else all_specs())
    base = replace(options or CompileOptions(chosen[0].name), form="ptq")
    return MarchComparison(tuple(explain_graph(graph, base.on(spec.name)).placement for spec in chosen))
