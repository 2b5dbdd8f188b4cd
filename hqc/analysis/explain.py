"""Placement of a float model before any training or calibration: what `hqc explain` shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from torch import nn

from hqc.analysis.placement import PlacementReport, placement_report
from hqc.frontend import lower_graph_module, trace
from hqc.ir import Graph
from hqc.march import all_specs, get_spec
from hqc.passes.base import PassContext
from hqc.passes.default import explain_pipeline
from hqc.passes.overrides import parse_hybrid_dict
from hqc.quantization.prepared import as_tuple


def planned_graph(model: nn.Module, example_inputs: Any, march: str, hybrid_dict: Mapping[str, Any] | None = None) -> Graph:
    """The bounded graph in its deployed form: devices, subgraphs and boundaries, no scales."""
    graph = lower_graph_module(trace(model), as_tuple(example_inputs)).graph
    context = PassContext(get_spec(march), overrides=parse_hybrid_dict(hybrid_dict))
    explain_pipeline().run(graph, context)
    return graph


def plan(model: nn.Module, example_inputs: Any, march: str, hybrid_dict: Mapping[str, Any] | None = None) -> PlacementReport:
    """Where everything would run on `march`, and why."""
    return placement_report(planned_graph(model, example_inputs, march, hybrid_dict))


def compare(model: nn.Module, example_inputs: Any, hybrid_dict: Mapping[str, Any] | None = None) -> Table:
    """One row per march: operations, MACs, subgraphs and crossings on each side."""
    table = Table(title="The same model on every march", title_justify="left")
    for column in ("march", "BPU ops", "CPU ops", "BPU MACs", "CPU MACs", "subgraphs", "crossings", "bytes across"):
        table.add_column(column, justify="left" if column == "march" else "right")
    for spec in all_specs():
        report = plan(model, example_inputs, spec.name, hybrid_dict)
        totals = report.totals
        table.add_row(
            spec.name,
            str(totals.bpu_nodes),
            str(totals.cpu_nodes),
            f"{totals.bpu_macs:,}",
            f"{totals.cpu_macs:,}",
            str(totals.subgraphs),
            str(totals.crossings),
            f"{totals.crossing_bytes:,}",
        )
    return table
