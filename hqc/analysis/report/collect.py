"""What the page shows, as plain data. It decides nothing: everything comes from the views that other commands print."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

import hqc
from hqc.analysis.advice import advise
from hqc.analysis.compare import compare
from hqc.analysis.compare.operations import OperationName, operations_of
from hqc.analysis.compare.views import FakeQuantView, FloatView, SimulatorView
from hqc.analysis.layers import layer_errors
from hqc.analysis.picture.boxes import Picture, picture_of
from hqc.analysis.picture.dot import HEADER, statements
from hqc.analysis.picture.files import svg_of
from hqc.analysis.report.measure import finite, histogram, rounded, times
from hqc.analysis.report.trace import PassTrace
from hqc.backends.onnx.verify import sample_arrays
from hqc.ir import Graph
from hqc.ir.costs import node_cost
from hqc.ir.printer import quant_text
from hqc.metrics.placement import MarchComparison, PlacementReport
from hqc.workflow.arguments import from_meta
from hqc.workflow.compile import Compiled
from hqc.workflow.deploy import deploy
from hqc.workflow.explain import compare as compare_chips
from hqc.workflow.explain import explain_prepared
from hqc.workflow.planning import plan_model

OWN_ERRORS = 120
"""Operations up to which each one's own error is measured: the network runs several times for each."""
RUNS = 3


Progress = Callable[[int, int | None], None]
"""Gets the steps that are done, and how many there are."""


class _Steps:
    """Counts the parts of the page that are done."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self._progress = 0, total, progress

    def __call__(self, found: Any = None) -> Any:
        """One more is done; returns what it found."""
        self.done += 1
        if self._progress is not None:
            self._progress(self.done, self.total)
        return found


PARTS, MEASUREMENTS = 4, 4
"""Steps of a page, and those that measuring adds."""


def collect(compiled: Compiled, *, measure: bool = True, progress: Progress | None = None) -> dict[str, Any]:
    """Everything about a compiled model. `measure`: run it on a calibration sample (random input where none fits) for errors,
    histograms and times; without it the page is about structure alone."""
    step = _Steps(PARTS + MEASUREMENTS * measure, progress)
    graph, placement = compiled.graph, compiled.placement
    picture = picture_of(graph)
    operations = _operations(compiled, placement, picture)
    found: dict[str, Any] = {
        "name": graph.name,
        "march": compiled.march,
        "version": hqc.__version__,
        "totals": asdict(placement.totals) | {"share": placement.totals.bpu_share},
        "chips": step(_chips(compiled, operations)),
        "advice": step([str(each) for each in advise(explain_prepared(compiled.prepared)).steps]),
        "operations": operations,
        "boundaries": _boundaries(graph, picture),
        "picture": step(_picture(picture, {row["name"]: index for index, row in enumerate(operations)})),
        "passes": step(_passes(compiled, operations)),
        "remarks": [{"severity": each.severity, "text": str(each)} for each in compiled.remarks],
        "warnings": list(placement.unwritable),
        "outputs": [],
        "measured": None,
    }
    if measure:
        _measure(compiled, found, step)
    return found


def _operations(compiled: Compiled, placement: PlacementReport, picture: Picture) -> list[dict[str, Any]]:
    nodes = {node.name: node for node in compiled.graph.nodes}
    boxes = {box.name: index for index, box in enumerate(picture.boxes) if box.kind in ("bpu", "cpu")}
    rows = []
    for row in placement.rows:
        node = nodes[row.name]
        quants = [value.quant for value in node.results if value.quant is not None]
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
                "dtype": quants[0].dtype.value if quants else node.results[0].type.dtype.value,
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


def _chips(compiled: Compiled, operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row of totals per chip; each operation gets its device on every chip, as `chips`."""
    preparation = compiled.prepared.preparation
    inputs = from_meta(preparation.inputs or ())
    comparison: MarchComparison = compare_chips(
        copy.deepcopy(preparation.float_model), inputs, replace(compiled.options, hybrid=True)
    )
    found = []
    for report in comparison.reports:
        devices = {name: row.device for row in report.rows for name in (row.name, *row.origin)}
        for row in operations:
            on = {devices[name] for name in (row["name"], *row["origin"]) if name in devices}
            row.setdefault("chips", []).append(on.pop() if len(on) == 1 else "mixed" if on else "")
        totals = report.totals
        found.append({"march": report.march, **asdict(totals), "share": totals.bpu_share})
    return found


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


def _passes(compiled: Compiled, operations: list[dict[str, Any]]) -> dict[str, Any]:
    """The pipelines once more, on copies: they are deterministic, so these are the passes that made the model."""
    preparation = compiled.prepared.preparation
    owners: dict[str, int] = {}
    for index, row in enumerate(operations):
        for name in (row["name"], *row["origin"]):
            owners.setdefault(name, index)
    trace = PassTrace(owners)
    inputs = preparation.inputs and from_meta(preparation.inputs)
    plan_model(copy.deepcopy(preparation.float_model), compiled.options, inputs, dump_dir=trace)
    deploy(compiled.prepared, dump_dir=trace)
    return {"lines": trace.lines, "steps": trace.steps}


# --- on data ----------------------------------------------------------------------------------------------------------------


def _measure(compiled: Compiled, found: dict[str, Any], step: _Steps) -> None:
    operations = found["operations"]
    by_name = {name: row for row in operations for name in (*row["origin"], row["name"])}
    sample = sample_arrays(compiled.graph, compiled.samples[0] if compiled.samples else None)
    arguments = compiled.runner.arguments(_structured(compiled, sample))
    comparison = compare(compiled, [arguments], own_errors=len(operations) <= OWN_ERRORS)
    step()
    _, fake_quant, *_ = comparison.views
    for each in comparison.operations:
        row = _row_of(each.name, by_name)
        if row is None:
            continue
        # The simulator runs a segment of CPU operations at once and has no values inside it; the fake-quant model has.
        for view in ("simulator", fake_quant):
            distance = each.distance("float", view)
            if distance is not None:
                row["error"] = rounded(asdict(distance)) | {"view": view}
                break
        if each.own is not None:
            row["own"] = rounded(asdict(each.own)) | {"rank": each.rank}
    for error in layer_errors(compiled.deployment, sample):
        if error.name in by_name:
            by_name[error.name]["layer"] = {"share": error.share, "max": error.max_lsb}
    step()
    _histograms(compiled, arguments, by_name)
    step()
    compiled.profile(*arguments)  # the first run fills caches
    taken = times([compiled.profile(*arguments) for _ in range(RUNS)], compiled.integer_graph)
    for name, (milliseconds, count) in taken.items():
        if name in by_name:
            by_name[name] |= {"ms": float(f"{milliseconds:.4g}"), "together": count}
    for output in comparison.outputs:
        distance = output.distances.get(("float", "simulator"))
        found["outputs"].append({"name": output.name, **(rounded(asdict(distance)) if distance is not None else {})})
    found["warnings"] += comparison.warnings
    worst = min(
        (output["sqnr"] if output.get("sqnr") is not None else math.inf for output in found["outputs"]), default=math.inf
    )
    step()
    total = sum(milliseconds / count for milliseconds, count in taken.values())
    found["measured"] = {"real": bool(compiled.samples), "sqnr": finite(worst), "ms": float(f"{total:.4g}")}


def _row_of(name: OperationName, by_name: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The row of an operation of the comparison; None for a boundary. A CPU operation that is quantized behind it has the value, and so
    the name, of the quantize."""
    return next((by_name[each] for each in (name.name, *name.fx) if each in by_name), None)


def _structured(compiled: Compiled, sample: dict[str, Any]) -> tuple[Any, ...]:
    """Arrays by input name in the structure that forward takes."""
    import torch

    from hqc.frontend.fx.structures import map_structure

    arrays = iter(sample.values())
    planned = compiled.prepared.preparation.inputs
    given: tuple[Any, ...] = map_structure(planned, lambda leaf: next(arrays) if isinstance(leaf, torch.Tensor) else leaf)
    return given


def _histograms(compiled: Compiled, arguments: tuple[Any, ...], by_name: dict[str, dict[str, Any]]) -> None:
    graph = compiled.graph
    operations = operations_of(compiled.prepared, graph)
    reals, _ = FloatView(compiled.prepared, operations).values(arguments, graph)
    fake_quants, _ = FakeQuantView(compiled.prepared, operations).values(arguments, graph)
    quantized = fake_quants | SimulatorView(compiled.runner).values(arguments, graph)[0]
    for operation in operations:
        row, name = _row_of(operation.name, by_name), operation.ir_value
        if row is not None and name in reals and name in quantized:
            row["histogram"] = histogram(reals[name], quantized[name], graph.values[name].quant)
