"""Tables that `hqc explain` shows beside the report."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table

from hqc.ir import Graph
from hqc.passes.partition import THRESHOLDS, format_macs, partition_summary


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
