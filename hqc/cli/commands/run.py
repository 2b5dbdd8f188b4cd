"""`hqc run`."""

from __future__ import annotations

from typing import Any

import click

from hqc.cli.console import show
from hqc.cli.options import compile_model, compile_options


@click.command("run", short_help="Simulate, compare with the float model.")
@compile_options
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="Batch size.")
def command(batch: int, **given: Any) -> None:
    """Simulate the deployed model and compare it with the float model, output by output."""
    from hqc.analysis.compare import compare_outputs

    compiled = compile_model(**given)
    show(compare_outputs(compiled, batch))
