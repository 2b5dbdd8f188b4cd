"""`hqc check`."""

from __future__ import annotations

from typing import Any

import click

from hqc.cli.console import json_option, print_json, show
from hqc.cli.edge import Unmet
from hqc.cli.language import tr
from hqc.cli.options import compile_model, compile_options


@click.command("check", short_help="What is known to cost accuracy or speed.")
@compile_options
@click.option("--settings", is_flag=True, help="Also list dtype, scale, rounding and observers of every operation.")
@click.option("--strict", is_flag=True, help="Exit with status 4 where anything was found.")
@json_option
def command(settings: bool, strict: bool, as_json: bool, **given: Any) -> None:
    """Look a model over: fusion that did not happen, shared modules, operands of unequal scales, ranges that no scale covers, dead
    layers, outputs and inputs of unusual form."""
    from hqc.analysis.checks import check

    found = check(compile_model(**given))
    if as_json:
        print_json(found.as_dict())
    else:
        show(found.table())
        if settings:
            show(found.settings_table())
    if strict and found.findings:
        raise Unmet(tr("findings: {count}, --strict allows none", count=len(found.findings)))
