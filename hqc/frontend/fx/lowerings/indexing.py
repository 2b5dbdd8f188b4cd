"""Indexing and slicing."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext, Operand
from hqc.frontend.fx.registry import Alias, lower_function, lower_method
from hqc.frontend.fx.shapes import GIVE_INPUTS, Size, UnknownSize
from hqc.ir import Value

_END = 2**63 - 1  # "to the end", where the size is unknown


@lower_function(operator.getitem, alias=Alias.VIEW)
def getitem(ctx: LoweringContext, input: Value, index: Any) -> Value:
    """Integers, slices, None, Ellipsis, and one constant index tensor."""
    entries = _expanded(ctx, input, index if isinstance(index, tuple) else (index,))
    cuts: list[tuple[int, int, int, int]] = []
    layout: list[int | None] = []  # result axes: an operand axis, or None for a new one
    gathers: list[tuple[int, Any]] = []
    axis = 0
    for entry in entries:
        if entry is None:
            layout.append(None)
            continue
        if isinstance(entry, bool):
            raise ctx.cannot("a boolean index")
        if isinstance(entry, slice):
            cut = _cut(ctx, input, axis, entry)
            if cut is not None:
                cuts.append(cut)
            layout.append(axis)
        elif isinstance(entry, (int, UnknownSize)):
            start = int(entry)
            cuts.append((axis, start, start + 1 if start != -1 else _END, 1))
        elif isinstance(entry, (list, torch.Tensor, Value)):
            gathers.append((axis, entry))
            layout.append(axis)
        else:
            raise ctx.cannot(f"an index of type {type(entry).__name__}")
        axis += 1
    if gathers:
        if len(gathers) > 1 or cuts or None in layout:
            raise ctx.cannot("index tensors are combined with other indices")
        return _gather(ctx, input, *gathers[0])
    shape = ctx.shape(input)
    rest = range(axis, len(shape)) if shape is not None else range(0)
    dropped = axis - len([a for a in layout if a is not None])
    reshaped = dropped > 0 or None in layout
    if reshaped:
        ctx.rank(input)
    sliced = _slice(ctx, input, cuts, "slice" if reshaped else None)
    if not reshaped:
        return sliced
    sizes = ctx.sizes(sliced)
    wanted: list[Size] = [1 if a is None else sizes[a] for a in (*layout, *rest)]
    return ctx.reshape(sliced, wanted)


def _expanded(ctx: LoweringContext, input: Value, index: tuple[Any, ...]) -> list[Any]:
    """The index with Ellipsis written out."""
    places = [i for i, entry in enumerate(index) if entry is Ellipsis]
    if not places:
        return list(index)
    place = places[0]
    if place == len(index) - 1:
        return list(index[:place])
    used = sum(1 for entry in index if entry is not None and entry is not Ellipsis)
    fill = [slice(None)] * (ctx.rank(input) - used)
    return [*index[:place], *fill, *index[place + 1 :]]


def _cut(ctx: LoweringContext, input: Value, axis: int, entry: slice) -> tuple[int, int, int, int] | None:
    """`(axis, start, end, step)`, or None where everything is kept."""
    for bound in (entry.start, entry.stop, entry.step):
        if isinstance(bound, (torch.Tensor, Value)):
            raise ctx.cannot("a slice bound is a tensor")
        if isinstance(bound, UnknownSize):
            raise ctx.error(f"the slice bound {bound} is not known; {GIVE_INPUTS}")
    start, step = entry.start or 0, entry.step or 1
    shape = ctx.shape(input)
    size = shape[axis] if shape is not None and axis < len(shape) else None
    end = entry.stop if entry.stop is not None else (_END if size is None or axis == 0 else size)
    if start == 0 and step == 1 and (end >= _END or (size is not None and axis > 0 and end >= size)):
        return None
    return axis, start, end, step


def _slice(ctx: LoweringContext, input: Value, cuts: list[tuple[int, int, int, int]], what: str | None) -> Value:
    if not cuts:
        return input if what is not None else ctx.emit("identity", input)
    axes, starts, ends, steps = zip(*cuts, strict=True)
    attributes: dict[str, Any] = {"axes": axes, "starts": starts, "ends": ends}
    if any(step != 1 for step in steps):
        attributes["steps"] = steps
    return ctx.emit("slice", input, what=what, **attributes)


def _gather(ctx: LoweringContext, input: Operand, axis: int, index: Any) -> Value:
    indices = torch.tensor(index) if isinstance(index, list) else index
    dtype = indices.type.dtype if isinstance(indices, Value) else ctx.ir_dtype(indices.dtype)
    if dtype.is_float or dtype.bits == 1 or dtype.value == "b1":
        raise ctx.cannot(f"an index tensor of {dtype.value}")
    if isinstance(indices, torch.Tensor):
        indices = ctx.parameter(indices, "indices") if isinstance(index, list) else ctx.parameter(indices)
    return ctx.emit("gather", input, indices, axis=axis)


@lower_function(torch.select, alias=Alias.VIEW)
def select(ctx: LoweringContext, input: Value, dim: int, index: int) -> Value:
    return getitem(ctx, input, (*(slice(None),) * _position(ctx, input, dim), index))


@lower_function(torch.narrow, alias=Alias.VIEW)
def narrow(ctx: LoweringContext, input: Value, dim: int, start: int, length: int) -> Value:
    return getitem(ctx, input, (*(slice(None),) * _position(ctx, input, dim), slice(start, start + length)))


def _position(ctx: LoweringContext, input: Value, dim: int) -> int:
    return dim if dim >= 0 else dim + ctx.rank(input)


@lower_function(torch.index_select)
def index_select(ctx: LoweringContext, input: Value, dim: int, index: Operand) -> Value:
    return _gather(ctx, input, ctx.axis(input, dim), index)


@lower_method("flip")
def flip_method(ctx: LoweringContext, input: Value, *dims: Any) -> Value:
    return flip(ctx, input, dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims)


@lower_function(torch.flip)
def flip(ctx: LoweringContext, input: Value, dims: Any) -> Value:
    axes = [ctx.axis(input, dim) for dim in dims]
    for i, axis in enumerate(axes):
        last = i == len(axes) - 1
        indices = torch.arange(ctx.size(input, axis) - 1, -1, -1)
        input = ctx.emit(
            "gather", input, ctx.parameter(indices, f"order{axis}"), what=None if last else f"axis{axis}", axis=axis
        )
    return input


@lower_function(torch.roll)
def roll(ctx: LoweringContext, input: Value, shifts: Any, dims: Any = None) -> Value:
    """Per axis: the tail, then the head."""
    if dims is None:
        raise ctx.cannot("roll without dims")
    pairs = list(zip(_listed(shifts), _listed(dims), strict=True))
    for i, (shift, dim) in enumerate(pairs):
        axis, size = ctx.axis(input, dim), ctx.size(input, dim)
        last = i == len(pairs) - 1
        cut = (size - shift) % size
        if cut == 0:
            input = ctx.emit("identity", input, what=None if last else f"roll{axis}")
            continue
        head, tail = ctx.emit_results(
            "split",
            input,
            names=[ctx.free_name(f"{ctx.node.name}_{part}{axis}") for part in ("head", "tail")],
            axis=axis,
            sizes=(cut, size - cut),
        )
        input = ctx.emit("cat", tail, head, what=None if last else f"roll{axis}", axis=axis)
    return input


def _listed(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


@lower_function(F.embedding)
def embedding(
    ctx: LoweringContext, input: Operand, weight: Operand, padding_idx: int | None = None, *args: Any, **kwargs: Any
) -> Value:
    return ctx.emit("gather", weight, input, axis=0)
