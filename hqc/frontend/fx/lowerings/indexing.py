"""Indexing and slicing."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hqc.frontend.fx.context import LoweringContext, Operand, to_torch_dtype
from hqc.frontend.fx.lowerings._arguments import pair, varargs
from hqc.frontend.fx.registry import Alias, lower_function, lower_method, lower_module
from hqc.frontend.fx.shapes import GIVE_INPUTS, Size, UnknownSize
from hqc.ir import DType, Value

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
            width = _width(entry)
            layout.extend(range(axis, axis + width))
            axis += width - 1
        else:
            raise ctx.cannot(f"an index of type {type(entry).__name__}")
        axis += 1
    if gathers:
        if None in layout or axis > len(layout):
            raise ctx.cannot("index tensors are combined with numbers or new axes")
        sliced = _slice(ctx, input, cuts, "slice")
        if len(gathers) == 1 and not _is_mask(gathers[0][1]):
            return _gather(ctx, sliced, *gathers[0])
        return _gather_several(ctx, sliced, gathers)
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
    used = sum(_width(entry) for entry in index if entry is not None and entry is not Ellipsis)
    fill = [slice(None)] * (ctx.rank(input) - used)
    return [*index[:place], *fill, *index[place + 1 :]]


def _width(entry: Any) -> int:
    """How many axes an entry is about: a mask has as many as itself."""
    return entry.ndim if _is_mask(entry) else 1


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


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def _gather_several(ctx: LoweringContext, input: Value, gathers: list[tuple[int, Any]]) -> Value:
    """Constant index tensors on neighbouring axes: one index into the axes as one. A mask is the places where it is true."""
    if any(isinstance(index, Value) for _, index in gathers):
        computed = next(index for _, index in gathers if isinstance(index, Value))
        if computed.type.dtype is DType.BOOL:
            raise ctx.error("an index by a computed mask has a size that depends on data; use torch.where or a multiplication")
        raise ctx.cannot("several index tensors, or a computed one beside others")
    first = gathers[0][0]
    indices: list[torch.Tensor] = []
    axis = first
    for place, index in gathers:
        if place != axis:
            raise ctx.cannot("index tensors are on axes that are no neighbours")
        tensor = torch.as_tensor(index)
        if _is_mask(tensor):
            indices.extend(tensor.nonzero(as_tuple=True))
            axis += tensor.ndim
        else:
            indices.append(tensor.long())
            axis += 1
    if len(gathers) > 1 and any(_is_mask(torch.as_tensor(index)) for _, index in gathers):
        raise ctx.cannot("masks are combined with other index tensors")
    sizes = ctx.sizes(input)
    flat = torch.zeros((), dtype=torch.long)
    for size, index in zip((ctx.size(input, a) for a in range(first, axis)), indices, strict=True):
        flat = flat * size + torch.where(index < 0, index + size, index)
    merged = input if axis == first + 1 else ctx.reshape(input, (*sizes[:first], -1, *sizes[axis:]), what="merged")
    return ctx.emit("gather", merged, ctx.parameter(flat.contiguous(), "places"), axis=first)


def _gather(ctx: LoweringContext, input: Operand, axis: int, index: Any) -> Value:
    indices = torch.tensor(index) if isinstance(index, list) else index
    dtype = indices.type.dtype if isinstance(indices, Value) else ctx.ir_dtype(indices.dtype)
    if dtype is DType.BOOL and isinstance(indices, Value):
        raise ctx.error("an index by a computed mask has a size that depends on data; use torch.where or a multiplication")
    if dtype.is_float or dtype.bits == 1 or dtype.value == "b1":
        raise ctx.cannot(f"an index tensor of {dtype.value}")
    if isinstance(indices, torch.Tensor):
        indices = ctx.parameter(indices, "indices") if isinstance(index, list) else ctx.parameter(indices)
    return ctx.emit("gather", input, indices, axis=axis)


@lower_function(torch.select, alias=Alias.VIEW)
def select(ctx: LoweringContext, input: Value, dim: int, index: int) -> Value:
    return getitem(ctx, input, (*(slice(None),) * _position(ctx, input, dim), index))


@lower_function(torch.narrow, alias=Alias.VIEW)
def narrow(ctx: LoweringContext, input: Value, dim: int, start: Any, length: int) -> Value:
    if isinstance(start, torch.Tensor):
        start = int(start)
    if isinstance(start, Value):
        raise ctx.cannot("the start is computed")
    if isinstance(start, int) and start < 0:
        start += ctx.size(input, dim)
    return getitem(ctx, input, (*(slice(None),) * _position(ctx, input, dim), slice(start, start + length)))


def _position(ctx: LoweringContext, input: Value, dim: int) -> int:
    return dim if dim >= 0 else dim + ctx.rank(input)


@lower_function(torch.index_select)
def index_select(ctx: LoweringContext, input: Value, dim: int, index: Operand) -> Value:
    shape = ctx.shape(index) if isinstance(index, (Value, torch.Tensor)) else None
    if ctx.shape(input) == () or shape == ():
        raise ctx.cannot("an operand has no axes")
    return _gather(ctx, input, ctx.axis(input, dim), index)


@lower_method("flip")
def flip_method(ctx: LoweringContext, input: Value, *dims: Any) -> Value:
    return flip(ctx, input, varargs(dims))


@lower_function(torch.flip)
def flip(ctx: LoweringContext, input: Value, dims: int | Sequence[int]) -> Value:
    axes = [ctx.axis(input, dim) for dim in ((dims,) if isinstance(dims, int) else dims)]
    if not axes or ctx.shape(input) == ():
        return ctx.emit("identity", input)
    for i, axis in enumerate(axes):
        input = _reversed(ctx, input, axis, None if i == len(axes) - 1 else f"axis{axis}")
    return input


def _reversed(ctx: LoweringContext, input: Value, axis: int, what: str | None) -> Value:
    order = torch.arange(ctx.size(input, axis) - 1, -1, -1)
    return ctx.emit("gather", input, ctx.parameter(order, f"order{axis}"), what=what, axis=axis)


@lower_function(torch.fliplr)
def fliplr(ctx: LoweringContext, input: Value) -> Value:
    return flip(ctx, input, (1,))


@lower_function(torch.flipud)
def flipud(ctx: LoweringContext, input: Value) -> Value:
    return flip(ctx, input, (0,))


@lower_function(torch.rot90)
def rot90(ctx: LoweringContext, input: Value, k: int = 1, dims: Any = (0, 1)) -> Value:
    """Quarter turns: a flip and a transposition."""
    first, second = (ctx.axis(input, dim) for dim in dims)
    perm = list(range(ctx.rank(input)))
    perm[first], perm[second] = perm[second], perm[first]
    turns = k % 4
    if turns == 0:
        return ctx.emit("identity", input)
    if turns == 2:
        return flip(ctx, input, (first, second))
    if turns == 1:
        return ctx.emit("transpose", _reversed(ctx, input, second, "turned"), perm=perm)
    return _reversed(ctx, ctx.emit("transpose", input, what="turned", perm=perm), second, None)


@lower_function(torch.roll)
def roll(ctx: LoweringContext, input: Value, shifts: Any, dims: Any = None) -> Value:
    """Per axis: the tail, then the head. Without axes, of all elements in a row."""
    if dims is None or (isinstance(dims, (tuple, list)) and not dims):
        rolled = _rolled(ctx, ctx.reshape(input, (-1,), what="flat"), sum(_listed(shifts)), 0, "rolled")
        return ctx.reshape(rolled, ctx.sizes(input))
    pairs = list(zip(_listed(shifts), _listed(dims), strict=True))
    for i, (shift, dim) in enumerate(pairs):
        axis = ctx.axis(input, dim)
        input = _rolled(ctx, input, shift, axis, None if i == len(pairs) - 1 else f"roll{axis}")
    return input


def _rolled(ctx: LoweringContext, input: Value, shift: int, axis: int, what: str | None) -> Value:
    size = ctx.size(input, axis)
    cut = (size - shift) % size if size else 0
    if cut == 0:
        return ctx.emit("identity", input, what=what)
    names = [ctx.free_name(f"{ctx.node.name}_{part}{axis}") for part in ("head", "tail")]
    head, tail = ctx.emit_results("split", input, names=names, axis=axis, sizes=(cut, size - cut))
    return ctx.emit("cat", tail, head, what=what, axis=axis)


def _listed(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


@lower_function(torch.diagonal, alias=Alias.VIEW)
def diagonal(ctx: LoweringContext, input: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    """The two axes become one, the last; of it, the diagonal's elements."""
    first, second = ctx.axis(input, dim1), ctx.axis(input, dim2)
    rows, columns = ctx.size(input, first), ctx.size(input, second)
    rest = [axis for axis in range(ctx.rank(input)) if axis not in (first, second)]
    moved = ctx.emit("transpose", input, what="moved", perm=(*rest, first, second))
    flat = ctx.reshape(moved, (*ctx.sizes(moved)[:-2], rows * columns), what="flat")
    places = torch.arange(rows * columns).reshape(rows, columns).diagonal(offset)
    return ctx.emit("gather", flat, ctx.parameter(places.contiguous(), "places"), axis=len(rest))


def _triangle(function: Any) -> None:
    """`tril` and `triu`: zeros outside of a triangle."""

    def lower(ctx: LoweringContext, input: Value, diagonal: int = 0) -> Value:
        kept = function(torch.ones(ctx.size(input, -2), ctx.size(input, -1), dtype=torch.bool), diagonal)
        return ctx.emit("where", ctx.parameter(kept, "kept"), input, ctx.scalar(0, input.type.dtype, "zero"))

    lower_function(function)(lower)


_triangle(torch.tril)
_triangle(torch.triu)


@lower_method("unfold", alias=Alias.VIEW)
def unfold(ctx: LoweringContext, input: Value, dimension: int, size: int, step: int) -> Value:
    """Windows of `size` along one axis, `step` apart; the place in the window is the last axis."""
    if ctx.shape(input) == ():
        return ctx.reshape(input, (size,))
    axis = ctx.axis(input, dimension)
    count = (ctx.size(input, axis) - size) // step + 1
    places = torch.arange(count).unsqueeze(1) * step + torch.arange(size)
    windows = ctx.emit("gather", input, ctx.parameter(places, "places"), what="windows", axis=axis)
    rank = ctx.rank(windows)
    perm = [i for i in range(rank) if i != axis + 1] + [axis + 1]
    return ctx.emit("transpose", windows, perm=perm)


@lower_module(nn.Unfold)
def im2col_module(ctx: LoweringContext, module: nn.Unfold, input: Value) -> Value:
    return im2col(ctx, input, module.kernel_size, module.dilation, module.padding, module.stride)


@lower_function(F.unfold)
def im2col(ctx: LoweringContext, input: Value, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Value:
    """`[N,C,H,W]` to `[N, C*kh*kw, windows]`: rows and columns of every window by index."""
    kernel, spread, amount, step = pair(kernel_size), pair(dilation), pair(padding), pair(stride)
    rank = ctx.rank(input)
    batch = () if rank == 3 else (ctx.sizes(input)[0],)
    if any(amount):
        lead = (0,) * (rank - 2)
        input = ctx.emit("pad", input, what="padded", pads=(*lead, *amount, *lead, *amount))
    counts = []
    for i, axis in enumerate((rank - 2, rank)):  # the first gather puts two axes where one was
        count = (ctx.size(input, axis) - spread[i] * (kernel[i] - 1) - 1) // step[i] + 1
        places = torch.arange(kernel[i]).unsqueeze(1) * spread[i] + torch.arange(count) * step[i]
        name = "rows" if i == 0 else "columns"
        input = ctx.emit("gather", input, ctx.parameter(places, f"{name}_places"), what=name, axis=axis)
        counts.append(count)
    r = rank - 2
    moved = ctx.emit("transpose", input, what="moved", perm=(*range(r), r, r + 2, r + 1, r + 3))
    channels = ctx.size(moved, r - 1)
    return ctx.reshape(moved, (*batch, channels * kernel[0] * kernel[1], counts[0] * counts[1]))


@lower_function(F.one_hot)
def one_hot(ctx: LoweringContext, input: Value, num_classes: int = -1) -> Value:
    if num_classes < 0:
        raise ctx.error("one_hot without num_classes has as many as the data says; a deployed graph has static shapes")
    column = ctx.reshape(input, (*ctx.sizes(input), 1), what="column")
    classes = ctx.parameter(torch.arange(num_classes, dtype=to_torch_dtype(input.type.dtype)), "classes")
    return ctx.emit("cast", ctx.emit("equal", column, classes, what="equal"), dtype=DType.INT64)


@lower_module(nn.Embedding)
def embedding_module(ctx: LoweringContext, module: nn.Embedding, input: Operand) -> Value:
    if module.max_norm is not None:
        raise ctx.error("an embedding with max_norm rewrites its table when it is read; a deployed graph has no state")
    return embedding(ctx, input, module.weight)


@lower_function(F.embedding)
def embedding(
    ctx: LoweringContext, input: Operand, weight: Operand, padding_idx: int | None = None, *args: Any, **kwargs: Any
) -> Value:
    return ctx.emit("gather", weight, input, axis=0)
