"""`hqc draw`."""

from __future__ import annotations

from typing import Any

import click

from hqc.cli.console import say
from hqc.cli.options import compile_model, compile_options, plan_arguments


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
def command(output: str, depth: int | None, calibration: str | None, samples: int, **given: Any) -> None:
    """Draw where everything runs: CPU operations red, BPU subgraphs shaded, boundaries between them.

    Needs no data; with --calibration the boundaries have scales.
    """  # fmt: skip
    from hqc.analysis.picture import draw
    from hqc.files import check_file_target, make_parent

    check_file_target(output)
    graph, opaque = _planned(**given) if calibration is None else _compiled(calibration=calibration, samples=samples, **given)
    make_parent(output)
    draw(graph, output, depth=depth, opaque=opaque)
    say(f"wrote {output}")


def _planned(model: str, march: str, shapes: tuple[str, ...], **plan: Any) -> tuple[Any, Any]:
    import hqc
    from hqc.analysis.user_files import example_inputs, load_model

    module, default = load_model(model)
    return hqc.explain(module, example_inputs(shapes, default), march=march, **plan_arguments(**plan)).graph, None


def _compiled(**given: Any) -> tuple[Any, Any]:
    compiled = compile_model(**given)
    return compiled.graph, compiled.deployment.opaque
