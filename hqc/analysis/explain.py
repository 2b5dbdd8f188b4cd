"""Placement of a float model before any training or calibration: what `hqc explain` shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.table import Table
from torch import nn

from hqc.frontend.fx import lower_graph_module, trace
from hqc.ir import Graph
from hqc.march import get_spec
from hqc.metrics.placement import MarchComparison, PlacementReport, compare_marches, placement_report
from hqc.passes.base import PassContext
from hqc.passes.default import explain_pipeline
from hqc.passes.overrides import parse_hybrid_dict
from hqc.passes.partition import THRESHOLDS, format_macs, partition_summary
from hqc.workflow.opaque_onnx import note_opaque


def planned_graph(model: nn.Module, example_inputs: Any, march: str, hybrid_dict: Mapping[str, Any] | None = None) -> Graph:
    """The bounded graph in its deployed form: devices, subgraphs and boundaries, no scales."""
    graph = _lowered(model, example_inputs)
    context = PassContext(get_spec(march), overrides=parse_hybrid_dict(hybrid_dict))
    explain_pipeline().run(graph, context)
    return graph


def _lowered(model: nn.Module, example_inputs: Any) -> Graph:
    lowered = lower_graph_module(trace(model, example_inputs), example_inputs)
    note_opaque(lowered)
    return lowered.graph


def plan(model: nn.Module, example_inputs: Any, march: str, hybrid_dict: Mapping[str, Any] | None = None) -> PlacementReport:
    """Where everything would run on `march`, and why."""
    return placement_report(planned_graph(model, example_inputs, march, hybrid_dict))


def compare(model: nn.Module, example_inputs: Any, hybrid_dict: Mapping[str, Any] | None = None) -> MarchComparison:
    """The same model on all four marches."""
    graph = _lowered(model, example_inputs)
    return compare_marches(graph, overrides=parse_hybrid_dict(hybrid_dict))


def threshold_table(graph: Graph, thresholds: Iterable[tuple[float, int]] = THRESHOLDS) -> Table:
    """What sending subgraphs below `(min_macs, min_nodes)` to the CPU would give: options of the `partition` pass, not applied."""
    table = Table(
        title="partition{min-macs=..,min-nodes=..}: what it would give",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    titles = (
        "min-macs",
        "min-nodes",
        "sub-\ngraphs",
        "BPU\nops",
        "CPU\nops",
        "MACs on\nthe BPU",
        "cross-\nings",
        "sent to\nthe CPU",
    )
    for column in titles:
        table.add_column(column, justify="right", no_wrap=True)
    for each in partition_summary(graph, thresholds):
        macs = "unknown" if each.bpu_macs is None else format_macs(each.bpu_macs)
        counts = (each.subgraphs, each.bpu_nodes, each.cpu_nodes, macs, each.crossings, len(each.demoted))
        table.add_row(f"{each.min_macs:g}", str(each.min_nodes), *map(str, counts))
    return table
