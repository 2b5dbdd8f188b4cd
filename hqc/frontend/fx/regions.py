"""Regions of forward that rewritten code tells the tracer about: branches on the mode, and `try` blocks."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from hqc.frontend.fx.rewriting import IN_TRAINING, TRYING, UPDATING


class Regions:
    """Where the call at present is. `takes_updates`: branches `if self.training:` that only change buffers are taken. `where` tells the
    user's line at present; `asleep` that what runs is not the user's code."""

    def __init__(self, takes_updates: bool, where: Callable[[], str], asleep: Callable[[], bool]) -> None:
        self.takes_updates = takes_updates
        self.took_updates = False
        self.branch = ""  # line of the branch around that acts in training only
        self.tries = 0  # how many `try` are around
        self._test = ""  # line of the last test of the mode
        self._where, self._asleep = where, asleep

    def in_training(self, training: bool) -> bool:
        """What `if self.training:` tests where only buffers change behind it."""
        if self._asleep() or not self.takes_updates:
            return training
        self.took_updates = True
        self._test = self._where()
        return True

    @contextlib.contextmanager
    def updating(self) -> Iterator[None]:
        """The nodes recorded inside act in training only."""
        if self._asleep():
            yield
            return
        outer, self.branch = self.branch, self.branch or self._test
        try:
            yield
        finally:
            self.branch = outer

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """What torch refuses inside is raised where it is called: a handler waits for it."""
        if self._asleep():
            yield
            return
        self.tries += 1
        try:
            yield
        finally:
            self.tries -= 1


def called_names(regions: Regions) -> dict[str, Callable[..., Any]]:
    """What rewritten code calls, by name. Functions that are made while tracing keep that code, and not the tracer."""
    reference = weakref.ref(regions)

    def in_training(training: bool) -> bool:
        found = reference()
        return training if found is None else found.in_training(training)

    def updating() -> Any:
        found = reference()
        return contextlib.nullcontext() if found is None else found.updating()

    def trying() -> Any:
        found = reference()
        return contextlib.nullcontext() if found is None else found.trying()

    return {IN_TRAINING: in_training, UPDATING: updating, TRYING: trying}
