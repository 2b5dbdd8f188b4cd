"""`hqc bench`."""

from __future__ import annotations

from typing import Any

import click

from hqc.cli.console import counted, json_option, print_json, say, show
from hqc.cli.language import tr
from hqc.cli.options import compile_model, compile_options


@click.command("bench", short_help="Time the simulator beside PyTorch.")
@compile_options
@click.option("--top", type=click.IntRange(1), default=15, show_default=True, metavar="N", help="Slowest operations to list.")
@json_option
def command(top: int, as_json: bool, **given: Any) -> None:
    """Time the simulator beside float32 eager PyTorch, and list the slowest operations."""
    from hqc.analysis.compare import time_simulator

    compiled = compile_model(**given)
    with counted(tr("timing")) as advance:
        timing = time_simulator(compiled, advance)
    if as_json:
        keys = ("operation", "op", "device", "ms", "macs")
        slowest = [dict(zip(keys, row, strict=True)) for row in timing.operations[:top]]
        print_json(
            {"simulator_ms": timing.simulator_ms, "eager_ms": timing.eager_ms, "ratio": timing.ratio, "operations": slowest}
        )
        return
    say(str(timing))
    show(timing.table(top))
