"""Numbered dumps of a pipeline run: `000-input.hqc`, `NNN-<pass>.hqc`, `NNN-<pass>.diff`, and one parameter sidecar."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Protocol, runtime_checkable

from hqc.errors import InputError
from hqc.files import write_file
from hqc.ir import Graph
from hqc.ir.printer import print_graph
from hqc.ir.sidecar import SHARED, sidecar_arrays, write_sidecar

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

    Dumps of an earlier run in the same directory are removed, so that what lies there is one run. The sidecar holds the large
    parameters of all dumps by content hash, so a parameter that many passes leave alone is stored once; `close` writes it,
    and `hqc.ir.load` finds it. `InputError` when the directory cannot be written.
    """

    def __init__(self, directory: str | Path, *, locations: bool = False) -> None:
        self.directory = Path(directory)
        self.last_diff = self.directory
        self.locations = locations
        self._previous: tuple[str, str] | None = None
        self._count = 0
        self._arrays = Graph("parameters")  # every large array so far, by its content hash
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in self.directory.iterdir():
                if _OURS.fullmatch(path.name) or path.name == SHARED:
                    path.unlink()
        except OSError as error:
            raise InputError(f"cannot write dumps to {self.directory}: {error.strerror}") from None

    def write(self, title: str, graph: Graph) -> None:
        """Dump `graph` as `NNN-<title>.hqc`, with a diff against the dump before it."""
        text = print_graph(graph, locations=self.locations)
        name = f"{self._count:03d}-{title}.hqc"
        write_file(self.directory / name, text.encode())
        known = self._arrays.parameters
        for key, array in sidecar_arrays(graph).items():
            if key not in known:
                self._arrays.add_parameter(key, array)
        if self._previous is not None:
            before, after = self._previous[1].splitlines(keepends=True), text.splitlines(keepends=True)
            self.last_diff = self.directory / f"{self._count:03d}-{title}.diff"
            diff = "".join(difflib.unified_diff(before, after, self._previous[0], name))
            write_file(self.last_diff, diff.encode())
        self._previous = (name, text)
        self._count += 1

    def close(self) -> None:
        """Write the sidecar, when any dump names a parameter by hash."""
        if self._arrays.parameters:
            write_sidecar([self._arrays], self.directory / SHARED)
