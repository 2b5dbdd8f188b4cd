"""The command line `hqc`. Everything here is presentation: the work is in the library.

A new command is a new file in `hqc/cli/commands`; nothing else has to know of it.
"""

from __future__ import annotations

import logging

import click
from rich.logging import RichHandler

import hqc
from hqc.cli.console import console
from hqc.cli.group import Group
from hqc.cli.options import FLAVOURS, MARCHES
from hqc.language import LANGUAGES

__all__ = ["FLAVOURS", "MARCHES", "main"]


@click.group("hqc", cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(hqc.__version__, prog_name="hqc")
@click.option("-v", "--verbose", is_flag=True, help="Show what the library logs.")
@click.option("--lang", type=click.Choice(LANGUAGES), help="Language of the command line; default: that of the locale.")
def main(verbose: bool, lang: str | None) -> None:
    """hqc compiles PyTorch models for a BPU with CPU fallback: where every op runs, why, and how good it is."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR,
        format="%(message)s",
        handlers=[RichHandler(console=console(stderr=True), show_path=False)],
    )
