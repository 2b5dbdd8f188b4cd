"""`hqc explain`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hqc.cli.console import json_option, print_json, say, show, table_rows, working
from hqc.cli.edge import Unmet
from hqc.cli.language import tr
from hqc.cli.options import (
    CHIP,
    MARCHES,
    MarchType,
    checkpoint_option,
    input_option,
    model_argument,
    plan_arguments,
    with_plan_options,
)

if TYPE_CHECKING:
    from hqc.analysis.advice import AdviceReport
    from hqc.workflow.options import Form


@click.command("explain", short_help="Where every operation runs, and why.")
@model_argument
@checkpoint_option
@click.option("--march", type=MarchType(), help=f"{CHIP}; without it all are compared.")
@input_option
@with_plan_options
@click.option("--all", "everything", is_flag=True, help="List BPU operations too.")
@click.option("--thresholds", is_flag=True, help="What sending small BPU subgraphs to the CPU would give (needs --march).")
@click.option(
    "--form",
    type=click.Choice(("ptq", "qat", "calibration")),
    default="ptq",
    show_default=True,
    help="ptq: as hqc.compile does it; qat, calibration: as prepare_qat_fx, prepare_calibration_fx do (needs --march).",
)
@click.option(
    "--max-cpu-nodes", type=click.IntRange(0), metavar="N", help="Exit with status 4 where more run there (needs --march)."
)
@json_option
def command(
    model: str,
    checkpoint: str | None,
    march: str | None,
    shapes: tuple[str, ...],
    everything: bool,
    thresholds: bool,
    form: Form,
    max_cpu_nodes: int | None,
    as_json: bool,
    **plan: Any,
) -> None:
    """Where every operation runs, why, and what would have to change. Needs no training and no data."""
    import hqc
    from hqc.analysis.advice import advise
    from hqc.analysis.explain import threshold_table
    from hqc.analysis.onnx_arguments import is_onnx_file, shaped_inputs
    from hqc.workflow.explain import compare
    from hqc.workflow.options import CompileOptions

    if march is None and (everything or thresholds or form != "ptq" or max_cpu_nodes is not None):
        raise click.UsageError(tr("--all, --thresholds, --form and --max-cpu-nodes are about one chip family; give --march"))
    with working(tr("reading {model}", model=model)):
        if is_onnx_file(model) and checkpoint is None:
            module, inputs = model, shaped_inputs(shapes)  # and no torch
        else:
            from hqc.analysis.user_files import model_and_inputs

            module, inputs = model_and_inputs(model, shapes, checkpoint)
        arguments = plan_arguments(**plan)
    if march is None:
        comparison = compare(module, inputs, CompileOptions.of(MARCHES[0], **arguments))
        if as_json:
            print_json({"marches": table_rows(comparison.table()), "differences": table_rows(comparison.difference_table())})
            return
        show(comparison.table())
        if comparison.differences:
            show(comparison.difference_table())
        else:
            say(tr("Every operation runs on the same device on all of them."))
        say(tr("For the reasons on one of them, and what would change them: add --march."))
        return
    explanation = hqc.explain(module, inputs, march=march, form=form, **arguments)
    report = explanation.placement
    if as_json:
        print_json(
            {
                "march": report.march,
                "form": form,
                "totals": report.totals,
                "operations": [{**vars(row), "where": row.where} for row in report.rows],
                "crossings": report.crossings,
                "unwritable": report.unwritable,
                "advice": [
                    {
                        "text": str(step),
                        "to_bpu": step.to_bpu,
                        "before": step.before,
                        "after": step.after,
                        "hybrid_dict": step.hybrid_dict,
                    }
                    for step in advise(explanation).steps
                ],
            }
        )
        _check(report.totals.cpu_nodes, max_cpu_nodes)
        return
    show(report.table(everything=everything))
    say(report.summary())
    say(explanation.shown)
    _advise(advise(explanation), report.totals.cpu_nodes)
    if thresholds:
        show(threshold_table(explanation.graph))
    _check(report.totals.cpu_nodes, max_cpu_nodes)


def _advise(found: AdviceReport, cpu_nodes: int) -> None:
    if found.steps:
        say("\n" + tr("What would help most:"))
        say(str(found))
    elif cpu_nodes and found.complete:
        say(
            "\n"
            + tr(
                "Changes tried: {singles}, pairs of them: {pairs}. None brings more multiply-accumulates to the BPU or saves a crossing.",
                singles=found.singles,
                pairs=found.pairs,
            )
        )
    elif cpu_nodes:
        say(
            "\n"
            + tr(
                "Changes tried: {singles}, pairs of them: {pairs}, of more in a model of this size. None of these brings more "
                "multiply-accumulates to the BPU or saves a crossing.",
                singles=found.singles,
                pairs=found.pairs,
            )
        )


def _check(cpu_nodes: int, allowed: int | None) -> None:
    if allowed is not None and cpu_nodes > allowed:
        raise Unmet(tr("operations on the CPU: {count}, --max-cpu-nodes allows {allowed}", count=cpu_nodes, allowed=allowed))
