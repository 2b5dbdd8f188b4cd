"""`hqc ops`."""

from __future__ import annotations

import click

from hqc.cli.console import json_option, print_json, show, table_rows
from hqc.cli.options import CHIP, MarchType


@click.command("ops", short_help="Which op runs on which chip.")
@click.option("--march", type=MarchType(), help=f"{CHIP}; default: all.")
@click.argument("names", nargs=-1)
@json_option
def command(march: str | None, names: tuple[str, ...], as_json: bool) -> None:
    """The support matrix: which op runs where, with the rule that decides."""
    from hqc.analysis.op_support import support_table

    table = support_table(march, names)
    if as_json:
        print_json({"march": march, "ops": table_rows(table)})
    else:
        show(table)
