"""What the page shows, as plain data. It decides nothing: everything comes from the views that other commands print."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from hqc.analysis.advice import advise
from hqc.analysis.compare import compare
from hqc.analysis.compare.operations import OperationName, operations_of
from hqc.analysis.compare.views import FakeQuantView, FloatView, SimulatorView
from hqc.analysis.layers import layer_errors
from hqc.analysis.report.measure import finite, histogram, rounded, times
from hqc.analysis.report.structure import Progress, Steps, chips_of, owners_of, structure
from hqc.analysis.report.trace import PassTrace
from hqc.backends.onnx.verify import sample_arrays
from hqc.frontend.fx.copying import deep_copy
from hqc.workflow.arguments import from_meta
from hqc.workflow.compile import Compiled
from hqc.workflow.deploy import deploy
from hqc.workflow.explain import compare as compare_chips
from hqc.workflow.explain import explain_prepared
from hqc.workflow.planning import plan_model

OWN_ERRORS = 120
"""Operations up to which each one's own error is measured: the network runs several times for each."""
RUNS = 3


PARTS, MEASUREMENTS = 4, 4
"""Steps of a page, and those that measuring adds."""


def collect(compiled: Compiled, *, measure: bool = True, progress: Progress | None = None) -> dict[str, Any]:
    """Everything about a compiled model. `measure`: run it on a calibration sample (random input where none fits) for errors,
    histograms and times; without it the page is about structure alone."""
    step = Steps(PARTS + MEASUREMENTS * measure, progress)
    found: dict[str, Any] = step(structure(compiled.graph, compiled.placement, compiled.march, compiled.remarks))
    operations = found["operations"]
    found["chips"] = step(_chips(compiled, operations))
    found["advice"] = step([str(each) for each in advise(explain_prepared(compiled.prepared)).steps])
    found["passes"] = step(_passes(compiled, operations))
    if measure:
        _measure(compiled, found, step)
    return found


def _chips(compiled: Compiled, operations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    preparation = compiled.prepared.preparation
    inputs = from_meta(preparation.inputs or ())
    options = replace(compiled.options, hybrid=True)
    return chips_of(compare_chips(deep_copy(preparation.float_model), inputs, options), operations)


def _passes(compiled: Compiled, operations: list[dict[str, Any]]) -> dict[str, Any]:
    """The pipelines once more, on copies: they are deterministic, so these are the passes that made the model."""
    preparation = compiled.prepared.preparation
    trace = PassTrace(owners_of(operations))
    inputs = preparation.inputs and from_meta(preparation.inputs)
    plan_model(deep_copy(preparation.float_model), compiled.options, inputs, dump_dir=trace)
    deploy(compiled.prepared, dump_dir=trace)
    return {"lines": trace.lines, "steps": trace.steps}


# --- on data ----------------------------------------------------------------------------------------------------------------


def _measure(compiled: Compiled, found: dict[str, Any], step: Steps) -> None:
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

    from hqc.structures import map_structure

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
