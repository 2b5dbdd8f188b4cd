"""Reading torch's ways to pass sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

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
        args = tuple(args[0])
    return tuple(map(as_integer, args))


def as_integer(item: Any) -> Any:
    """A constant tensor of one whole number as that: torch takes one where it asks for an int (`x.permute(*torch.tensor([1, 0]))`)."""
    is_one = isinstance(item, torch.Tensor) and item.numel() == 1 and not item.is_complex() and not item.is_floating_point()
    return int(item) if is_one else item


def single(value: Any) -> int:
    """An int, or a sequence of one int."""
    return value if isinstance(value, int) else int(next(iter(value)))


def batched(ctx: LoweringContext, input: Value, rank: int, lower: Callable[[Value, str | None], Value]) -> Value:
    """`lower(x, what)` on an operand of `rank` axes; one without a batch gets one for the time."""
    shape = ctx.shape(input)
    if shape is None or len(shape) != rank - 1:
        return lower(input, None)
    result = lower(ctx.reshape(input, (1, *ctx.sizes(input)), what="batch"), "of_batch")
    return ctx.reshape(result, ctx.sizes(result)[1:])


def as_images(ctx: LoweringContext, input: Value, lower: Callable[[Value, str | None], Value]) -> Value:
    """`lower(x, what)` on `[N,C,1,L]` for an operand `[N,C,L]` or `[C,L]`; what comes back loses the height again."""
    sizes = ctx.sizes(input)
    lead = (1,) if len(sizes) == 2 else ()
    result = lower(ctx.reshape(input, (*lead, *sizes[:-1], 1, sizes[-1]), what="image"), "of_image")
    made = ctx.sizes(result)
    return ctx.reshape(result, (*made[len(lead) : -2], made[-1]))
