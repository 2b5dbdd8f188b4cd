"""Patches of torch, Python modules and code that last as long as one trace, under the one lock that traces share.

Whatever a trace patches, another thread may be running: every replacement does for that thread what the original does. The
lock lets one trace at a time patch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager
from types import CodeType, FunctionType, TracebackType
from typing import Any

TRACE_LOCK = threading.RLock()
"""Held by the thread that traces; a second trace waits for the first."""
_ABSENT = object()


class Patches:
    """Replaced attributes and dictionary entries; leaving the context puts the originals back, last one first."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self.functions: dict[int, tuple[Any, Any]] = {}  # by the id of what was replaced by `function`: it, and its replacement
        self._seen: set[tuple[int, str]] = set()

    def attribute(self, owner: Any, name: str, replacement: Any) -> None:
        """Set `owner.name`."""
        own = vars(owner).get(name, _ABSENT)
        setattr(owner, name, replacement)
        self._undo.append(lambda: delattr(owner, name) if own is _ABSENT else setattr(owner, name, own))

    def function(self, owner: Any, name: str, replacement: Any) -> None:
        """Set `owner.name`, a function, which users may have imported under a name of their own (`from torch import zeros`)."""
        original = getattr(owner, name)
        self.functions.setdefault(id(original), (original, replacement))
        self.attribute(owner, name, replacement)

    def code(self, function: FunctionType, replacement: CodeType) -> None:
        """Set the code that a function runs."""
        own = function.__code__
        function.__code__ = replacement
        self._undo.append(lambda: setattr(function, "__code__", own))

    def item(self, table: MutableMapping[str, Any], name: str, replacement: Any) -> None:
        """Set `table[name]`, once per table and name."""
        if (id(table), name) in self._seen:
            return
        self._seen.add((id(table), name))
        own = table.get(name, _ABSENT)
        table[name] = replacement

        def undo() -> None:
            if own is _ABSENT:
                table.pop(name, None)
            else:
                table[name] = own

        self._undo.append(undo)

    def context(self, manager: AbstractContextManager[Any]) -> None:
        """Enter `manager`."""
        manager.__enter__()

        def leave() -> None:
            manager.__exit__(None, None, None)

        self._undo.append(leave)

    def __enter__(self) -> Patches:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        while self._undo:
            self._undo.pop()()
