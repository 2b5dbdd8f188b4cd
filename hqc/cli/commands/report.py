"""`hqc report`."""

from __future__ import annotations

from typing import Any

import click

from hqc.cli.console import say
from hqc.cli.options import compile_model, compile_options


@click.command("report", short_help="Write one HTML page.")
@compile_options
@click.option("-o", "--output", type=click.Path(), default="report.html", show_default=True, help="HTML file to write.")
def command(output: str, **given: Any) -> None:
    """Write one HTML page: placement with reasons, error per layer, scales."""
    from hqc.files import check_file_target, make_parent

    check_file_target(output)
    compiled = compile_model(**given)
    make_parent(output)
    compiled.report(output)
    say(f"wrote {output}")
