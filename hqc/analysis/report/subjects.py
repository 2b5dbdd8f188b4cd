"""The page of whatever has one: compiled models, saved ones, and explanations. torch is read for the first alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hqc.analysis.advice import advise
from hqc.analysis.report.measure import times
from hqc.analysis.report.structure import Progress, Steps, chips_of, owners_of, structure
from hqc.analysis.report.trace import PassTrace
from hqc.backends.onnx.verify import sample_arrays
from hqc.checked import checked
from hqc.workflow.explanation import Explanation, compare_marches
from hqc.workflow.loaded import LoadedModel
from hqc.workflow.pipelines import explain_pipeline

if TYPE_CHECKING:
    from hqc.workflow.compile import Compiled

RUNS = 3


@checked
def page_of(
    subject: Compiled | LoadedModel | Explanation, *, measure: bool, progress: Progress | None = None
) -> dict[str, Any]:
    """Everything that the page of `subject` shows; `measure`: run it, where it can be run."""
    if isinstance(subject, Explanation):
        return _explanation(subject, progress)
    if isinstance(subject, LoadedModel):
        return _loaded(subject, measure, progress)
    from hqc.analysis.report.collect import collect

    return collect(subject, measure=measure, progress=progress)


def _explanation(explanation: Explanation, progress: Progress | None) -> dict[str, Any]:
    """A plan: nothing has scales yet, and nothing can be run."""
    step = Steps(4, progress)
    options = explanation.options
    found: dict[str, Any] = step(structure(explanation.graph, explanation.placement, options.march, explanation.remarks))
    chips = compare_marches(explanation.float_graph, replace(options, hybrid=True))
    found["chips"] = step(chips_of(chips, found["operations"]))
    found["advice"] = step([str(each) for each in advise(explanation).steps])
    trace = PassTrace(owners_of(found["operations"]))
    explain_pipeline(options).run(explanation.float_graph.clone(), explanation.context, dump_dir=trace)
    found["passes"] = step({"lines": trace.lines, "steps": trace.steps})
    return found


def _loaded(model: LoadedModel, measure: bool, progress: Progress | None) -> dict[str, Any]:
    """A saved model has its two graphs, and no float model: no errors, no advice, no other chips."""
    step = Steps(2 + measure, progress)
    found: dict[str, Any] = step(structure(model.graph, model.placement, model.march, model.remarks))
    trace = PassTrace(owners_of(found["operations"]), pipelines=("integer",))
    trace.write("input", model.graph)
    trace.write("lower-to-integer", model.integer_graph)
    found["passes"] = step({"lines": trace.lines, "steps": trace.steps})
    if measure:
        _measure(model, found)
        step()
    return found


def _measure(model: LoadedModel, found: dict[str, Any]) -> None:
    """Times on a stored sample, or on random input."""
    arrays = list(sample_arrays(model.graph, model.samples[0] if model.samples else None).values())
    model.profile_tensors(arrays)  # the first run fills caches
    taken = times([model.profile_tensors(arrays) for _ in range(RUNS)], model.integer_graph)
    by_name = {name: row for row in found["operations"] for name in (*row["origin"], row["name"])}
    for name, (milliseconds, count) in taken.items():
        if name in by_name:
            by_name[name] |= {"ms": float(f"{milliseconds:.4g}"), "together": count}
    total = sum(milliseconds / count for milliseconds, count in taken.values())
    found["measured"] = {"real": bool(model.samples), "ms": float(f"{total:.4g}")}
