"""What the commands print with: prose and tables on standard output, remarks and progress on standard error."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

PIPE_WIDTH = 120  # columns where there is no terminal to ask


def console(*, stderr: bool = False) -> Console:
    """Made anew for each use, so that it writes to whatever the standard streams are at that time."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = PIPE_WIDTH
    return made


def say(text: str) -> None:
    """A line of prose on standard output, as it is."""
    out = console()
    out.print(text, markup=False, soft_wrap=not out.is_terminal)


def show(table: Any) -> None:
    """A rich table (or anything rich can print) on standard output."""
    console().print(table)


def note(text: str, style: str = "yellow") -> None:
    """A line beside the result, on standard error."""
    console(stderr=True).print(Text(text, style=style), soft_wrap=True)


@contextmanager
def counted(description: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on standard error, where that is a terminal; the yielded function takes (done, total or None)."""
    err = console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
