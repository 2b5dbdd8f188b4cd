"""What code hears that asks torch whether it is traced: that it is not, so that the graph is that of the eager model.

Libraries ask, and do something else when they are traced: a shortcut that looks at data is left out, a mask is made that eager
code does without. The other question, `isinstance(x, fx.Proxy)`, is answered by `proxies.traced_isinstance`.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import fx

from hqc.frontend.fx.patches import Patches

_ANSWER = "_hqc_is_traced"
_QUESTIONS = ("is_fx_tracing", "is_fx_symbolic_tracing")


def hide_trace(patches: Patches, tracer: Any) -> None:
    """Let torch's functions that say whether FX traces deny it while `tracer` is hidden, but to torch itself, which needs to know."""

    def answer() -> bool:
        caller = sys._getframe(2)
        if str(caller.f_globals.get("__name__", "")).partition(".")[0] == "torch":
            return True
        tracer.was_asked = True
        return not tracer.hidden

    home: Any = fx._symbolic_trace
    patches.attribute(home, _ANSWER, answer)
    for name in _QUESTIONS:
        function = getattr(home, name, None)  # the second is newer than the oldest torch that hqc runs with
        if function is not None:
            patches.code(function, _question.__code__)


def _question() -> bool:
    return bool(_hqc_is_traced())  # type: ignore[name-defined]  # noqa: F821 (a global of the module whose code this becomes)
