"""`hqc ops`."""

from __future__ import annotations

import click

from hqc.cli.console import show
from hqc.cli.options import CHIP, MarchType


@click.command("ops", short_help="Which op runs on which chip.")
@click.option("--march", type=MarchType(), help=f"{CHIP}; default: all.")
@click.argument("names", nargs=-1)
def command(march: str | None, names: tuple[str, ...]) -> None:
    """The support matrix: which op runs where, with the rule that decides."""
    from hqc.analysis.op_support import support_table

    show(support_table(march, names))
