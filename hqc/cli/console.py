"""What the commands print with: prose and tables on standard output, remarks and progress on standard error."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import click
from rich.console import Console, ConsoleOptions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from hqc.cli.language import translated_renderable
from hqc.errors import printable

PIPE_WIDTH = 120  # columns where there is no terminal to ask


class _Console(Console):
    """Prints what names of layers and files are, and never what a terminal would obey of them."""

    def render(self, renderable: Any, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def console(*, stderr: bool = False) -> Console:
    """Made anew for each use, so that it writes to whatever the standard streams are at that time."""
    made = _Console(stderr=stderr, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made


def say(text: str) -> None:
    """A line of prose on standard output, as it is."""
    out = console()
    out.print(translated_renderable(text), markup=False, soft_wrap=not out.is_terminal)


def show(table: Any) -> None:
    """A rich table (or anything rich can print) on standard output."""
    console().print(translated_renderable(table))


def note(text: str, style: str = "yellow") -> None:
    """A line beside the result, on standard error."""
    console(stderr=True).print(Text(translated_renderable(text), style=style), soft_wrap=True)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")


def print_json(value: Any) -> None:
    """One JSON object on standard output; numbers that JSON does not know (infinity) become null."""
    click.echo(json.dumps(_plain(value), ensure_ascii=False, indent=2))


def table_rows(table: Table) -> list[dict[str, str]]:
    """The texts of a table, row by row, by the heads of its columns."""
    heads = [" ".join(str(column.header).split()) for column in table.columns]
    return [
        dict(zip(heads, map(str, row), strict=True)) for row in zip(*(column.cells for column in table.columns), strict=True)
    ]


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


@contextmanager
def working(description: str) -> Iterator[None]:
    """A sign of life on standard error, where that is a terminal, for work that cannot be counted."""
    err = console(stderr=True)
    with err.status(description) if err.is_terminal else nullcontext():
        yield


@contextmanager
def counted(description: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on standard error, where that is a terminal; the yielded function takes (done, total or None)."""
    err = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    if not err.is_terminal:  # the oldest rich that may be installed ends even a disabled bar with an empty line
        yield lambda done, total: None
        return
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
