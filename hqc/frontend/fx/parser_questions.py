"""Sizes that torch's argument parser asks for, before it hands the call with its proxies to the tracer.

The call is recorded with the size as a node, so that the graph is right for every size: nothing is assumed of it. Python's own questions
(`range(size)`, `shape[size]`) leave no call behind.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from hqc.frontend.fx.locations import asking_frame


class ParserQuestions:
    """The assumptions of the instruction that runs now, by key, until the call that it makes is recorded."""

    def __init__(self) -> None:
        self._place: tuple[int, int] | None = None  # a frame and its instruction
        self._asked: dict[Any, fx.Node] = {}

    def ask(self, key: Any, node: fx.Node) -> None:
        """The value of `node` is asked for, which made the assumption `key`."""
        place = _place()
        if place != self._place:
            self._place, self._asked = place, {}
        self._asked[key] = node

    def settled_by(self, call: fx.Node) -> list[Any]:
        """The keys of the questions that the recorded `call` answers: it has their nodes among its arguments."""
        if not self._asked or self._place != _place():
            return []
        settled = [key for key, node in self._asked.items() if node in call.all_input_nodes]
        for key in settled:
            del self._asked[key]
        return settled


def _place() -> tuple[int, int] | None:
    frame = asking_frame()
    return None if frame is None else (id(frame), frame.f_lasti)
