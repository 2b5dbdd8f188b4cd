"""`hqc doctor`."""

from __future__ import annotations

import click

from hqc.cli.console import json_option, print_json, say


@click.command("doctor", short_help="What this installation can do, and why.")
@json_option
def command(as_json: bool) -> None:
    """Print versions, the processor's features, threads, and each engine with the reason why it is or is not used."""
    from hqc.analysis.doctor import doctor_rows, doctor_text

    if as_json:
        print_json(dict(doctor_rows()))
    else:
        say(doctor_text())
