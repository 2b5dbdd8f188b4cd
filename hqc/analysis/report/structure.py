"""What a page shows of any planned graph: operations, boundaries, picture, totals. IR only, no torch: saved models and explanations
have pages too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

import hqc
from hqc.analysis.picture.boxes import Picture, picture_of
from hqc.analysis.picture.dot import HEADER, statements
from hqc.analysis.picture.files import svg_of
from hqc.ir import Graph
from hqc.ir.costs import node_cost
from hqc.ir.printer import quant_text
from hqc.metrics.placement import MarchComparison, PlacementReport
from hqc.passes.base import Remark

Progress = Callable[[int, int | None], None]
"""Gets the steps that are done, and how many there are."""


class Steps:
    """Counts the parts of the page that are done."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self._progress = 0, total, progress

    def __call__(self, found: Any = None) -> Any:
        """One more is done; returns what it found."""
        self.done += 1
        if self._progress is not None:
            self._progress(self.done, self.total)
        return found


def structure(graph: Graph, placement: PlacementReport, march: str, remarks: Iterable[Remark]) -> dict[str, Any]:
    """The page of a graph without what only some models know: chips side by side, advice, passes, measurements."""
    picture = picture_of(graph)
    operations = _operations(graph, placement, picture)
    return {
        "name": graph.name,
        "march": march,
        "version": hqc.__version__,
        "totals": asdict(placement.totals) | {"share": placement.totals.bpu_share},
        "chips": [],
        "advice": [],
        "operations": operations,
        "boundaries": _boundaries(graph, picture),
        "picture": _picture(picture, {row["name"]: index for index, row in enumerate(operations)}),
        "passes": {"lines": [], "steps": []},
        "remarks": [{"severity": each.severity, "text": str(each)} for each in remarks],
        "warnings": list(placement.unwritable),
        "outputs": [],
        "measured": None,
    }


def chips_of(comparison: MarchComparison, operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row of totals per chip; each operation gets its device on every chip, as `chips`."""
    found = []
    for report in comparison.reports:
        devices = {name: row.device for row in report.rows for name in (row.name, *row.origin)}
        for row in operations:
            on = {devices[name] for name in (row["name"], *row["origin"]) if name in devices}
            row.setdefault("chips", []).append(on.pop() if len(on) == 1 else "mixed" if on else "")
        totals = report.totals
        found.append({"march": report.march, **asdict(totals), "share": totals.bpu_share})
    return found


def owners_of(operations: list[dict[str, Any]]) -> dict[str, int]:
    """Number of the operation that each traced name belongs to."""
    owners: dict[str, int] = {}
    for index, row in enumerate(operations):
        for name in (row["name"], *row["origin"]):
            owners.setdefault(name, index)
    return owners


def _operations(graph: Graph, placement: PlacementReport, picture: Picture) -> list[dict[str, Any]]:
    nodes = {node.name: node for node in graph.nodes}
    boxes = {box.name: index for index, box in enumerate(picture.boxes) if box.kind in ("bpu", "cpu")}
    rows = []
    for row in placement.rows:
        node = nodes[row.name]
        quants = [value.quant for value in node.results if value.quant is not None]
        observed = node.results[0].observation
        rows.append(
            {
                "box": boxes[row.name],
                "name": row.name,
                "where": row.where,
                "op": row.op,
                "device": row.device,
                "subgraph": row.subgraph,
                "module": row.module,
                "path": picture.boxes[boxes[row.name]].module,
                "source": row.source,
                "origin": list(row.origin),
                "types": [str(value.type) for value in node.results],
                "quant": [quant_text(quant) if quant.scale.size <= 8 else _long(quant) for quant in quants],
                "scale": float(f"{float(np.max(quants[0].scale)):.5g}") if quants else None,
                "dtype": quants[0].dtype.value if quants else (observed or node.results[0].type).dtype.value,
                "why": placement.why(row),
                "change": row.change,
                "macs": row.macs,
                "parameter_bytes": node_cost(node).parameter_bytes,
            }
        )
    return rows


def _long(quant: Any) -> str:
    low, high = float(quant.scale.min()), float(quant.scale.max())
    return f"q({quant.dtype.value}, axis={quant.axis}, {quant.scale.size} scales {low:.4g} to {high:.4g})"


def _boundaries(graph: Graph, picture: Picture) -> list[dict[str, Any]]:
    nodes = {node.name: node for node in graph.nodes}
    found = []
    for index, box in enumerate(picture.boxes):
        if box.kind != "boundary":
            continue
        node = nodes[box.name]
        quants = [value.quant for value in (*node.results, *node.data_operands) if value.quant is not None]
        shown = quant_text(quants[0]) if quants and quants[0].scale.size <= 8 else _long(quants[0]) if quants else ""
        detail = {"op": node.op.name, "from": node.operands[0].name, "type": str(node.results[0].type), "quant": shown}
        found.append({"box": index, "name": box.name, "detail": box.detail, **detail})
    return found


def _picture(picture: Picture, index_of: dict[str, int]) -> dict[str, Any]:
    """The pieces that the page's Graphviz lays out, and what each box is: `[kind, subgraph, groups, operation]`."""
    pieces = statements(picture)
    return {
        "header": HEADER,
        "statements": list(pieces.boxes),
        "boxes": [[box.kind, box.subgraph, list(box.groups), index_of.get(box.name, -1)] for box in picture.boxes],
        "groupStatements": list(pieces.groups),
        "groups": [[group.module, group.kind, group.subgraph] for group in picture.groups],
        "clusters": {str(number): text for number, text in pieces.clusters.items()},
        "edges": [[source, target, kind] for source, target, kind in picture.edges],
        "folded": sorted(picture.comfortable()),
        "svg": svg_of(picture, picture.comfortable()),
    }
