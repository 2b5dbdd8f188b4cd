"""`hqc doctor`."""

from __future__ import annotations

import click

from hqc.cli.console import say


@click.command("doctor", short_help="What this installation can do, and why.")
def command() -> None:
    """Print versions, the processor's features, threads, and each engine with the reason why it is or is not used."""
    from hqc.analysis.doctor import doctor_text

    say(doctor_text())
