"""`hqc compile`."""

from __future__ import annotations

from typing import Any

import click

from hqc.cli.console import json_option, print_json, say
from hqc.cli.language import tr
from hqc.cli.options import FLAVOURS, compile_model, compile_options


@click.command("compile", short_help="Quantize after training, write the ONNX file.")
@compile_options
@click.option("-o", "--output", type=click.Path(), default="model.onnx", show_default=True, help="ONNX file to write.")
@click.option(
    "--flavour",
    type=click.Choice(FLAVOURS),
    default="horizon",
    show_default=True,
    help="horizon: for hb_mapper; runnable: the same nodes for onnxruntime; qdq: standard ops; integer: the simulator's.",
)
@click.option("--force", is_flag=True, help="Overwrite a yaml beside the model that was changed by hand.")
@click.option("--dump-dir", type=click.Path(), help="Write the IR after every pass there.")
@json_option
def command(output: str, flavour: str, force: bool, as_json: bool, **given: Any) -> None:
    """Quantize a model after training and write its ONNX file and the yaml for hb_mapper beside it."""
    from hqc.files import check_file_target, make_parent

    check_file_target(output)
    compiled = compile_model(file_scales=True, **given)
    make_parent(output)
    report = compiled.export(output, flavour=flavour, overwrite_configuration=force)
    if as_json:
        calibration = str(getattr(compiled, "calibration", tr("the file's own scales")))
        print_json({**vars(report), "placement": compiled.placement.totals, "calibration": calibration})
        return
    say(compiled.placement.summary())
    say(str(report))
