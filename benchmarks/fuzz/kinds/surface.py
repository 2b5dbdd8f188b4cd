"""Every public name, by introspection, with arguments that do not belong there."""

from __future__ import annotations

import os
import random
from pathlib import Path

from benchmarks.fuzz.cases import Attempt, kind
from benchmarks.fuzz.surface import odd_call, surface


@kind("surface")
def make(generator: random.Random, folder: Path) -> Attempt:
    """One call of one public function, constructor or method; files go into `folder`."""
    names = sorted(surface())
    call = None
    while call is None:
        call = odd_call(surface()[generator.choice(names)], generator)

    def attempt() -> object:
        before = os.getcwd()
        try:
            os.chdir(folder)
            return call()
        finally:
            os.chdir(before)

    return attempt
