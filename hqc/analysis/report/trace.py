"""The IR after every pass, small enough for a page: each distinct line once, each dump as line numbers, each diff as ranges."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from hqc.ir import Graph
from hqc.ir.printer import print_graph

PIPELINES = ("prepare", "deploy", "integer")
"""In the order in which a model goes through them."""


class PassTrace:
    """A `DumpSink` for the pipelines of one model, run one after the other.

    `owners`: number of the operation that each traced name belongs to, so that lines can be found by operation. `pipelines`: what
    they are called.
    """

    def __init__(self, owners: Mapping[str, int], pipelines: Sequence[str] = PIPELINES) -> None:
        self.owners = owners
        self.pipelines = pipelines
        self.lines: list[str] = []
        self.steps: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}
        self._pipeline = -1

    def write(self, title: str, graph: Graph) -> None:
        """Keep the graph's text; `input` begins the next pipeline."""
        self._pipeline += title == "input"
        numbers = [self._number(line) for line in print_graph(graph, locations=False).splitlines()]
        before = [] if title == "input" else self.steps[-1]["text"]
        self.steps.append(
            {
                "pipeline": self.pipelines[min(self._pipeline, len(self.pipelines) - 1)],
                "name": title,
                "stage": graph.stage,
                "text": numbers,
                "changes": [] if title == "input" else changes(before, numbers),
                "owners": self._owners(graph, len(numbers)),
            }
        )

    def close(self) -> None:
        """Nothing to do: everything is in memory."""

    def _number(self, line: str) -> int:
        number = self._numbers.setdefault(line, len(self.lines))
        if number == len(self.lines):
            self.lines.append(line)
        return number

    def _owners(self, graph: Graph, count: int) -> list[list[int]]:
        """`[line, operation, ...]` for every line that stands for (part of) operations. Nodes come last, before outputs and `}`."""
        first = count - 1 - len(graph.outputs) - len(graph)
        found = []
        for index, node in enumerate(graph.nodes):
            mine = sorted({self.owners[name] for name in (node.name, *node.origin) if name in self.owners})
            if mine:
                found.append([first + index, *mine])
        return found


def changes(before: list[int], after: list[int]) -> list[list[int]]:
    """Ranges that differ, `[from, to, from, to]` in the two texts."""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    return [[i1, i2, j1, j2] for tag, i1, i2, j1, j2 in matcher.get_opcodes() if tag != "equal"]
