"""Reading torch's ways to pass sizes."""

from __future__ import annotations

from typing import Any

from hqc.frontend.fx.context import LoweringContext
from hqc.ir import Value


def pair(value: Any) -> tuple[int, int]:
    """An int, or a sequence of one or two ints, as (height, width)."""
    if isinstance(value, int):
        return value, value
    items = tuple(int(item) for item in value)
    return (items[0], items[0]) if len(items) == 1 else (items[0], items[1])


def varargs(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """`f(1, 2)` and `f((1, 2))` alike."""
    if len(args) == 1 and isinstance(args[0], (tuple, list)):
        return tuple(args[0])
    return args


def require_images(ctx: LoweringContext, x: Value) -> None:
    """Refuse an unbatched operand of a 2-D op, which the IR does not have."""
    shape = ctx.shape(x)
    if shape is not None and len(shape) == 3:
        raise ctx.cannot(f"{x.name} has no batch dimension")
