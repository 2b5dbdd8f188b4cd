"""Parts of a tensor's memory: windows that overlap, diagonals, and what else strides say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from hqc.frontend.fx.context import LoweringContext
from hqc.frontend.fx.lowerings.layout import permute
from hqc.frontend.fx.registry import Alias, lower_function
from hqc.frontend.fx.strides import as_strided
from hqc.ir import Value


@lower_function(as_strided, alias=Alias.VIEW)
def strided(
    ctx: LoweringContext, input: Value, size: Sequence[int], stride: Sequence[int], offset: int, order: Sequence[int]
) -> Value:
    """One gather over the axes in which result and memory differ; those around it, such as the batch, stay as they are."""
    shape = ctx.known_shape(input)
    sizes = [shape[axis] for axis in order]
    memory = [(count, math.prod(sizes[axis + 1 :])) for axis, count in enumerate(sizes)]
    wanted = list(zip(size, stride, strict=True))
    leading = _shared(memory, wanted)
    while True:
        length = math.prod(sizes[leading:])
        unit, index = _rows(wanted[leading:], offset, length)
        if leading == 0 or (index < length // unit).all():
            break
        leading -= 1
    x = permute(ctx, input, order) if list(order) != sorted(order) else input
    x = ctx.reshape(x, [*sizes[:leading], length // unit, unit], what="rows")
    x = ctx.emit("gather", x, ctx.parameter(index, "rows"), axis=leading, what="gather")
    return ctx.reshape(x, list(size))


def _shared(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> int:
    """How many pairs of size and stride are the same from the start."""
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


def _rows(wanted: Sequence[tuple[int, int]], offset: int, length: int) -> tuple[int, torch.Tensor]:
    """How long the pieces are that lie together in `length` elements, and which of them come one after the other."""
    run, outer = 1, len(wanted)
    while outer and wanted[outer - 1][1] == run:
        outer -= 1
        run *= wanted[outer][0]
    unit = math.gcd(run, offset, length, *(step for _, step in wanted[:outer]))
    index = torch.tensor(offset // unit)
    for count, step in (*wanted[:outer], (run // unit, unit)):
        index = index.unsqueeze(-1) + torch.arange(count) * (step // unit)
    return unit, index.flatten()
