"""`hqc compare`."""

from __future__ import annotations

from typing import Any

import click

from hqc.cli.console import counted, note, say, show
from hqc.cli.language import tr
from hqc.cli.options import compile_model, compile_options


@click.command("compare", short_help="Which operation costs accuracy, and why.")
@compile_options
@click.option("--exported", type=click.Path(), metavar="FILE", help="An ONNX file that hqc exported: compare it too.")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="Operations to list.")
@click.option("--pair", metavar="A:B", help="Every operation of two views instead, e.g. calibrated:simulator.")
@click.option("--csv", "as_csv", is_flag=True, help="Print everything as CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(exported: str | None, top: int, pair: str | None, as_csv: bool, as_json: bool, **given: Any) -> None:
    """Compare float, fake-quantized, simulated and exported model operation by operation, on the calibration data.

    The table ranks operations by what the outputs lose where each alone is quantized, and says whether clipping, rounding or the weights
    are to blame.
    """
    from hqc.analysis.compare import compare
    from hqc.errors import InputError

    compiled = compile_model(**given)
    with counted(tr("comparing")) as advance:
        found = compare(compiled, exported=exported, own_errors=pair is None, progress=advance)
    for warning in found.warnings:
        note(warning)
    if as_json:
        say(found.json().rstrip())
    elif as_csv:
        say(found.csv().rstrip())
    elif pair is not None:
        views = pair.split(":")
        if len(views) != 2:
            raise InputError(f"--pair takes two views, e.g. float:simulator, got {pair!r}")
        show(found.pair_table(views[0], views[1]))
    else:
        show(found.table(top))
