"""Python code of graphs whose modules have names that are no Python names: `class`, `it's`, `a"b`.

Stock FX writes such a path as `self.heads.class`, or between quotes that the name may contain.
"""

from __future__ import annotations

import keyword
import threading
from typing import Any

from torch import fx

_LOCK = threading.Lock()


def needs_care(path: str) -> bool:
    """True for a dotted path that stock FX writes as code that is none, or that names something else."""
    return any(not _plain(part) for part in path.split("."))


def _plain(part: str) -> bool:
    """True for what Python reads as it is written: it takes `ＡＢ` for AB."""
    return part.isdecimal() or (part.isascii() and part.isidentifier() and not keyword.iskeyword(part))


def attribute_expression(base: str, target: str) -> str:
    """The expression of the attribute `target` (dotted) of `base`."""
    expression = base
    for part in target.split("."):
        plain = _plain(part) and not part.isdecimal()
        expression = f"{expression}.{part}" if plain else f"getattr({expression}, {part!a})"
    return expression


class CarefulCodeGen(fx.graph.CodeGen):
    """FX's code generator, with attributes of any name."""

    def _gen_python_code(self, *args: Any, **kwargs: Any) -> Any:
        with _LOCK:  # FX has no other way to say how a path is written
            original = fx.graph._format_target
            fx.graph._format_target = attribute_expression
            try:
                return super()._gen_python_code(*args, **kwargs)
            finally:
                fx.graph._format_target = original
