"""`hqc draw`."""

from __future__ import annotations

from typing import Any

import click

from hqc.cli.console import json_option, print_json, say
from hqc.cli.data_options import take_reading
from hqc.cli.language import tr
from hqc.cli.options import QUANTIZATION, compile_model, compile_options, plan_arguments, split_modules


@click.command("draw", short_help="Draw the graph: SVG, or for Netron.")
@compile_options
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    default="model.svg",
    show_default=True,
    help="File to write: .svg, .dot, .json for model-explorer, .onnx for Netron with devices as metadata of the nodes.",
)
@click.option(
    "--depth",
    type=click.IntRange(1),
    metavar="N",
    help="Fold modules below N name parts; default: as much as keeps it readable.",
)
@json_option
def command(output: str, depth: int | None, as_json: bool, calibration: tuple[str, ...], **given: Any) -> None:
    """Draw where everything runs: CPU operations red, BPU subgraphs shaded, boundaries between them.

    Needs no data; with --calibration the boundaries have scales.
    """  # fmt: skip
    from hqc.analysis.picture import draw
    from hqc.files import check_file_target, make_parent

    check_file_target(output)
    graph, opaque = _compiled(calibration=calibration, **given) if calibration else _planned(**given)
    make_parent(output)
    draw(graph, output, depth=depth, opaque=opaque)
    print_json({"path": output}) if as_json else say(tr("wrote {path}", path=output))


def _planned(
    model: str, checkpoint: str | None, march: str, shapes: tuple[str, ...], split_shared: bool, **plan: Any
) -> tuple[Any, Any]:
    import hqc
    from hqc.analysis.user_files import model_and_inputs

    take_reading(plan)
    plan.pop("workers")
    for name in QUANTIZATION:  # they change scales, which are not drawn here
        plan.pop(name)
    module, inputs = model_and_inputs(model, shapes, checkpoint)
    module = split_modules(module, inputs) if split_shared else module
    return hqc.explain(module, inputs, march=march, **plan_arguments(**plan)).graph, None


def _compiled(**given: Any) -> tuple[Any, Any]:
    compiled = compile_model(**given)
    return compiled.graph, compiled.deployment.opaque
