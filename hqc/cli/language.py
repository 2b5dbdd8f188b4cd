"""The language of the command line: English, or Chinese by `--lang zh` or by locale. The words are in `zh.json`.

Texts are looked up as they are written in the code, with `{name}` for what changes. What the library itself says (errors, reasons,
tables) is English.
"""

from __future__ import annotations

import copy
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

LANGUAGES = ("en", "zh")
_chosen: str | None = None


def choose(arguments: Sequence[str]) -> None:
    """Take the language from the command line before it is read, so that its help and its errors are in it too."""
    global _chosen
    _chosen = None
    for index, argument in enumerate(arguments):
        if not argument.startswith("-") and (index == 0 or arguments[index - 1] != "--lang"):
            break  # a command: what follows is its own
        value = argument.partition("=")[2] if argument.startswith("--lang=") else ""
        if argument == "--lang" and index + 1 < len(arguments):
            value = arguments[index + 1]
        if value in LANGUAGES:
            _chosen = value


def language() -> str:
    """The one in force: chosen, or that of the locale."""
    if _chosen is not None:
        return _chosen
    locale = next((os.environ[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    return "zh" if locale.lower().startswith("zh") else "en"


@functools.cache
def catalogue() -> dict[str, str]:
    """English text -> Chinese text."""
    found: dict[str, str] = json.loads(Path(__file__).with_name("zh.json").read_text(encoding="utf-8"))
    return found


def tr(text: str, **values: Any) -> str:
    """`text` in the language in force, with `values` in the places of their names."""
    found = catalogue().get(text, text) if language() == "zh" else text
    return found.format(**values) if values else found


def key_of(text: str | None) -> str:
    """A help text or docstring as the catalogue has it: one line."""
    return " ".join((text or "").split("\f")[0].split())


def translated(command: click.Command) -> click.Command:
    """The command with its help in the language in force; the command itself is not changed."""
    if language() == "en":
        return command
    other = copy.copy(command)
    other.help, other.short_help, other.epilog = (
        tr(key_of(text)) if text else text for text in (command.help, command.short_help, command.epilog)
    )
    other.params = [_translated(param) for param in command.params]
    return other


def _translated(param: click.Parameter) -> click.Parameter:
    if not isinstance(param, click.Option) or not param.help:
        return param
    other = copy.copy(param)
    other.help = tr(key_of(param.help))
    return other


class Formatter(click.HelpFormatter):
    """Headings in the language in force."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """As click's."""
        super().write_usage(prog, args, f"{tr('Usage:')} " if prefix is None else prefix)

    def write_heading(self, heading: str) -> None:
        """As click's."""
        super().write_heading(tr(heading))


class Context(click.Context):
    """Makes help pages in the language in force."""

    formatter_class = Formatter
