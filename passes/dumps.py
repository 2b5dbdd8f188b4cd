"""Numbered dumps of a pipeline run: `000-input.hqc`, `NNN-<pass>.hqc`, `NNN-<pass>.diff`, and one parameter sidecar."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Protocol, runtime_checkable

from hqc.errors import InputError
from hqc.files import check_file_target, write_files
from hqc.ir import Graph
from hqc.ir.printer import print_graph
from hqc.ir.sidecar import SHARED, sidecar_arrays, sidecar_bytes

_OURS = re.compile(r"\d{3,}-[a-z0-9-]+\.(hqc|diff)")


@runtime_checkable
class DumpSink(Protocol):
    """What takes the graph before the first and after every pass of a run: files, or whoever wants to look at them."""

    def write(self, title: str, graph: Graph) -> None:
        """`title`: name of the pass that has just run; `input` before the first one. The graph changes afterwards."""

    def close(self) -> None:
        """The run is over."""


class DumpWriter:
    """Writes the dumps of one pipeline run into a directory, which is created when missing.

    They appear together when the run is over, however it ends, in place of those of an earlier run in the same directory, so that what
    lies there is one run. The sidecar holds the large parameters of all dumps by content hash, so a parameter that many passes leave
    alone is stored once, and is there before the texts that need it; `hqc.ir.load` finds it. `InputError` when the directory cannot
    be written.
    """

    def __init__(self, directory: str | Path, *, locations: bool = False) -> None:
        self.directory = Path(directory)
        self.last_diff = self.directory
        self.locations = locations
        self._previous: tuple[str, str] | None = None
        self._count = 0
        self._arrays = Graph("parameters")  # every large array so far, by its content hash
        self._texts: dict[str, str] = {}
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write dumps to {self.directory}: {error.strerror}") from None
        check_file_target(self.directory / SHARED)

    def write(self, title: str, graph: Graph) -> None:
        """Dump `graph` as `NNN-<title>.hqc`, with a diff against the dump before it."""
        text = print_graph(graph, locations=self.locations)
        name = f"{self._count:03d}-{title}.hqc"
        self._texts[name] = text
        known = self._arrays.parameters
        for key, array in sidecar_arrays(graph).items():
            if key not in known:
                self._arrays.add_parameter(key, array)
        if self._previous is not None:
            before, after = self._previous[1].splitlines(keepends=True), text.splitlines(keepends=True)
            self.last_diff = self.directory / f"{self._count:03d}-{title}.diff"
            self._texts[self.last_diff.name] = "".join(difflib.unified_diff(before, after, self._previous[0], name))
        self._previous = (name, text)
        self._count += 1

    def close(self) -> None:
        """Put the run into the directory: the sidecar, when any dump names a parameter by hash, then the texts."""
        files = {self.directory / SHARED: sidecar_bytes([self._arrays])} if self._arrays.parameters else {}
        files.update({self.directory / name: text.encode() for name, text in self._texts.items()})
        if files:
            write_files(files, instead_of=self._older)

    def _older(self) -> list[Path]:
        folder = self.directory.resolve()
        return [path for path in folder.iterdir() if _OURS.fullmatch(path.name) or path.name == SHARED]
