"""The language of the command line: English, or Chinese by `--lang zh`, by `HQC_LANG` or by locale.

What the commands themselves say is looked up as it is written in the code, with `{name}` for what changes (`tr`). What the library says
is translated where it is printed (`translated_renderable`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import click
from rich.table import Column, Table
from rich.text import Text

from hqc.language import LANGUAGES, VARIABLE, catalogue, in_force, said, use, word

__all__ = ["LANGUAGES", "Context", "Formatter", "choose", "key_of", "tr", "translated", "translated_renderable"]


def choose(arguments: Sequence[str]) -> None:
    """Take the language from the command line before it is read, so that its help and its errors are in it too."""
    chosen = None
    for index, argument in enumerate(arguments):
        if not argument.startswith("-") and (index == 0 or arguments[index - 1] != "--lang"):
            break  # a command: what follows is its own
        value = argument.partition("=")[2] if argument.startswith("--lang=") else ""
        if argument == "--lang" and index + 1 < len(arguments):
            value = arguments[index + 1]
        if value in LANGUAGES:
            chosen = value
    use(chosen or _of_the_environment())


def _of_the_environment() -> str:
    named = next((os.environ[name] for name in (VARIABLE, "LC_ALL", "LC_MESSAGES", "LANG") if os.environ.get(name)), "")
    return "zh" if named.lower().startswith("zh") else "en"


def tr(text: str, **values: Any) -> str:
    """`text` in the language in force, with `values` in the places of their names."""
    found = catalogue().get(text, text) if in_force() == "zh" else text
    return found.format(**values) if values else found


def key_of(text: str | None) -> str:
    """A help text or docstring as the catalogue has it: one line."""
    return " ".join((text or "").split("\f")[0].split())


def translated(command: click.Command) -> click.Command:
    """The command with its help in the language in force; the command itself is not changed."""
    if in_force() == "en":
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


def translated_renderable(item: Any) -> Any:
    """A text or a table of the library in the language in force; anything else as it is."""
    if in_force() == "en":
        return item
    if isinstance(item, str):
        return said(item)
    if isinstance(item, Text):
        return _translated_text(item)
    if isinstance(item, Table):
        return _translated_table(item)
    return item


def _translated_table(table: Table) -> Table:
    other = copy.copy(table)
    other.title, other.caption = (word(text) if isinstance(text, str) else text for text in (table.title, table.caption))
    other.columns = [_translated_column(column) for column in table.columns]
    return other


def _translated_column(column: Column) -> Column:
    other = copy.copy(column)
    other.header = word(column.header) if isinstance(column.header, str) else column.header
    other._cells = [translated_renderable(cell) for cell in column._cells]
    return other


def _translated_text(text: Text) -> Text:
    """Line by line: a line has one style."""
    lines = []
    for line in text.split("\n", allow_blank=True):
        style = line.spans[0].style if line.spans else line.style
        lines.append(Text(said(line.plain), style=style))
    return Text("\n", style=text.style).join(lines)


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
