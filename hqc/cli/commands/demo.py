"""`hqc demo`."""

from __future__ import annotations

from pathlib import Path

import click

from hqc.cli.console import console, json_option, print_json
from hqc.cli.options import CHIP, MarchType


@click.command("demo", short_help="See it all on handwritten digits.")
@click.option("--march", type=MarchType(), default="bayes", show_default=True, help=f"{CHIP}.")
@click.option("--out", type=click.Path(), default="out/demo", show_default=True, help="Where dumps and the ONNX file go.")
@json_option
def command(march: str, out: str, as_json: bool) -> None:
    """Train a small CNN on handwritten digits, compile it, and show what happened."""
    from hqc.analysis.demo import run_demo

    compiled = run_demo(console(stderr=as_json), march, Path(out))
    if as_json:
        print_json({"march": march, "out": out, "placement": compiled.placement.totals})
