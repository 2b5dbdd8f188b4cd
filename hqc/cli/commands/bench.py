"""`hqc bench`."""

from __future__ import annotations

from typing import Any

import click

from hqc.cli.console import say, show
from hqc.cli.options import compile_model, compile_options


@click.command("bench", short_help="Time the simulator beside PyTorch.")
@compile_options
@click.option("--top", type=click.IntRange(1), default=15, show_default=True, metavar="N", help="Slowest operations to list.")
def command(top: int, **given: Any) -> None:
    """Time the simulator beside float32 eager PyTorch, and list the slowest operations."""
    from hqc.analysis.compare import time_simulator

    compiled = compile_model(**given)
    ratio, slowest = time_simulator(compiled, top)
    say(ratio)
    show(slowest)
