"""The last net: whatever goes wrong becomes one line on standard error and an exit status.

| status | what happened |
|---|---|
| 0 | the command did what it says |
| 1 | hqc refused: the model, an option, a file or the data, in one sentence; or the model's own code failed |
| 2 | the command line cannot be understood |
| 3 | a bug of hqc; the traceback is in a file |
| 4 | a bound that the command was given (`--min-sqnr`, `--max-cpu-nodes`, `--target`, `--strict`) is not met |
| 130 | interrupted |
"""

from __future__ import annotations

import sys
import sysconfig
import tempfile
import traceback
from pathlib import Path

import click
from rich.text import Text

import hqc
from hqc.cli.console import console
from hqc.cli.language import tr
from hqc.errors import HqcError
from hqc.language import said

REFUSED, BUG, UNMET, INTERRUPTED = 1, 3, 4, 130
_NO_MEMORY = ("can't allocate memory", "out of memory")
"""What torch's RuntimeErrors say where Python has a MemoryError."""
_HQC = str(Path(hqc.__file__).parent)
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class Unmet(click.ClickException):
    """A result is beyond a bound that the user gave: a failed check of a CI job, not an error."""

    exit_code = UNMET

    def show(self, file: object = None) -> None:
        """One line on standard error."""
        complain(tr("not met: "), self.format_message())


def complain(prefix: str, text: str) -> None:
    """One line on standard error."""
    console(stderr=True).print(Text.assemble((prefix, "bold red"), text), soft_wrap=True)


def explained(error: BaseException) -> int:
    """Say what `error` means for the user; returns the exit status."""
    if isinstance(error, HqcError):
        complain(tr("error: "), said(str(error)))
        return REFUSED
    if isinstance(error, KeyboardInterrupt):
        complain("", tr("interrupted"))
        return INTERRUPTED
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)):
        complain(tr("error: "), tr("there is not enough memory for this model; try smaller inputs or a smaller batch"))
        return REFUSED
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    place = users_line(error)
    if place is not None:
        complain(tr("error: "), tr("the model's own code failed: {place}: {what}", place=place, what=what))
        return REFUSED
    if isinstance(error, OSError) and error.errno is not None:
        complain(tr("error: "), f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return REFUSED
    complain(
        tr("bug: "),
        tr(
            "{what}. This is a fault of hqc, not of your model: please report it with the file {file}",
            what=what,
            file=_written(error),
        ),
    )
    return BUG


def users_line(error: BaseException) -> str | None:
    """`file:line` where the innermost code that belongs to no library is the user's; None where it is hqc's."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(("<", *_LIBRARIES)) and not frame.filename.startswith(_HQC):
            continue
        return None if frame.filename.startswith(_HQC) else f"{Path(frame.filename).name}:{frame.lineno}"
    return None


def _written(error: BaseException) -> str:
    """The traceback, the command and the versions in a file; its name, or what kept it from being written."""
    from hqc.analysis.doctor import versions

    lines = ["command: " + " ".join(sys.argv), *(f"{name} {version}" for name, version in versions().items()), ""]
    text = "\n".join(lines) + "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="hqc-bug-", suffix=".txt", delete=False, encoding="utf-8") as file:
            file.write(text)
        return file.name
    except OSError as problem:
        return f"(which could not be written: {problem.strerror}) {traceback.format_exception_only(error)[-1].strip()}"
