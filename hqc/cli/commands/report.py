"""`hqc report`."""

from __future__ import annotations

from typing import Any

import click

from hqc.cli.console import counted, json_option, print_json, say
from hqc.cli.language import tr
from hqc.cli.options import compile_options
from hqc.cli.saved import compiled_or_loaded, takes_saved_models


@takes_saved_models
@click.command("report", short_help="Write one HTML file.")
@compile_options
@click.option("-o", "--output", type=click.Path(), default="report.html", show_default=True, help="HTML file to write.")
@click.option("--no-measure", is_flag=True, help="Run nothing: leave out errors, histograms and times.")
@json_option
def command(output: str, no_measure: bool, as_json: bool, **given: Any) -> None:
    """Write one HTML file: the graph as a picture, a table, reasons, errors, histograms, times, and the IR after every pass."""
    from hqc.files import check_file_target, make_parent

    check_file_target(output)
    model = compiled_or_loaded(**given)
    make_parent(output)
    with counted(tr("reporting")) as advance:
        model.report(output, measure=not no_measure, progress=advance)
    print_json({"path": output}) if as_json else say(tr("wrote {path}", path=output))
