"""Reshapes, permutations, concatenation, repetition, shuffles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hqc.errors import EmptyResultError
from hqc.frontend.fx.context import LoweringContext, Operand
from hqc.frontend.fx.lowerings._arguments import varargs
from hqc.frontend.fx.registry import Alias, lower_function, lower_method, lower_module
from hqc.frontend.fx.shapes import Size, UnknownSize
from hqc.ir import Value

# --- reshapes ----------------------------------------------------------------------------------------------------------


@lower_method("view", "reshape", alias=Alias.VIEW)
def reshape_method(ctx: LoweringContext, input: Value, *shape: Any) -> Value:
    if shape and isinstance(shape[0], torch.dtype):
        raise ctx.cannot("the view has another dtype")
    return ctx.reshape(input, varargs(shape))


@lower_function(torch.reshape, alias=Alias.VIEW)
def reshape(ctx: LoweringContext, input: Value, shape: Sequence[Size]) -> Value:
    return ctx.reshape(input, tuple(shape))


@lower_method("view_as", "reshape_as", alias=Alias.VIEW)
def reshape_as(ctx: LoweringContext, input: Value, other: Value) -> Value:
    return ctx.reshape(input, ctx.sizes(other))


@lower_module(nn.Flatten, alias=Alias.VIEW)
def flatten_module(ctx: LoweringContext, module: nn.Flatten, input: Value) -> Value:
    return flatten(ctx, input, module.start_dim, module.end_dim)


@lower_function(torch.flatten, alias=Alias.VIEW)
def flatten(ctx: LoweringContext, input: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    if end_dim == -1 and start_dim >= 0:
        return ctx.reshape(input, (*_leading(ctx, input, start_dim), -1))
    rank = ctx.rank(input)
    start, end = start_dim % rank, end_dim % rank
    sizes = ctx.sizes(input)
    return ctx.reshape(input, (*sizes[:start], -1, *sizes[end + 1 :]))


def _leading(ctx: LoweringContext, input: Value, count: int) -> tuple[Size, ...]:
    if ctx.shape(input) is not None:
        return ctx.sizes(input)[:count]
    return tuple(UnknownSize(f"{input.name}.shape[{axis}]", axis, input.name) for axis in range(count))


@lower_function(torch.ravel, alias=Alias.VIEW)
def ravel(ctx: LoweringContext, input: Value) -> Value:
    return ctx.reshape(input, (-1,))


@lower_function(torch.atleast_1d, alias=Alias.VIEW)
def atleast_1d(ctx: LoweringContext, input: Value) -> Value:
    return ctx.reshape(input, (1,)) if ctx.rank(input) == 0 else ctx.emit("identity", input)


@lower_module(nn.Unflatten, alias=Alias.VIEW)
def unflatten_module(ctx: LoweringContext, module: nn.Unflatten, input: Value) -> Value:
    if not isinstance(module.dim, int):
        raise ctx.cannot("the dimension is named")
    return unflatten(ctx, input, module.dim, module.unflattened_size)


@lower_function(torch.unflatten, alias=Alias.VIEW)
def unflatten(ctx: LoweringContext, input: Value, dim: int, sizes: Sequence[Size]) -> Value:
    own = ctx.sizes(input)
    axis = ctx.axis(input, dim)
    return ctx.reshape(input, (*own[:axis], *sizes, *own[axis + 1 :]))


@lower_function(torch.squeeze, alias=Alias.VIEW)
def squeeze(ctx: LoweringContext, input: Value, dim: int | Sequence[int] | None = None) -> Value:
    sizes = ctx.sizes(input)
    if dim is None:
        known = ctx.known_shape(input)
        return ctx.reshape(input, [size for size in known if size != 1])
    axes = {ctx.axis(input, axis) for axis in ((dim,) if isinstance(dim, int) else dim)}
    for axis in axes:
        ctx.size(input, axis)
    return ctx.reshape(input, [size for axis, size in enumerate(sizes) if axis not in axes or size != 1])


@lower_function(torch.unsqueeze, alias=Alias.VIEW)
def unsqueeze(ctx: LoweringContext, input: Value, dim: int) -> Value:
    sizes = ctx.sizes(input)
    position = dim % (len(sizes) + 1)
    return ctx.reshape(input, (*sizes[:position], 1, *sizes[position:]))


# --- permutations ------------------------------------------------------------------------------------------------------


@lower_method("permute", alias=Alias.VIEW)
def permute_method(ctx: LoweringContext, input: Value, *dims: Any) -> Value:
    return permute(ctx, input, varargs(dims))


@lower_function(torch.permute, alias=Alias.VIEW)
def permute(ctx: LoweringContext, input: Value, dims: Sequence[int]) -> Value:
    if len(dims) < 2:
        return ctx.emit("identity", input)
    return ctx.emit("transpose", input, perm=[axis % len(dims) for axis in dims])


@lower_function(torch.transpose, torch.swapaxes, torch.swapdims, alias=Alias.VIEW)
def transpose(ctx: LoweringContext, input: Value, dim0: int, dim1: int) -> Value:
    perm = list(range(ctx.rank(input)))
    if len(perm) < 2:
        return ctx.emit("identity", input)
    perm[dim0], perm[dim1] = perm[dim1], perm[dim0]
    return ctx.emit("transpose", input, perm=perm)


@lower_function(torch.t, alias=Alias.VIEW)
def t(ctx: LoweringContext, input: Value) -> Value:
    return permute(ctx, input, list(reversed(range(ctx.rank(input)))))


@lower_function(torch.adjoint, alias=Alias.VIEW)
def adjoint(ctx: LoweringContext, input: Value) -> Value:
    return transpose(ctx, input, -2, -1)


@lower_function(torch.movedim, torch.moveaxis, alias=Alias.VIEW)
def movedim(ctx: LoweringContext, input: Value, source: int | Sequence[int], destination: int | Sequence[int]) -> Value:
    rank = ctx.rank(input)
    sources = [axis % rank for axis in ((source,) if isinstance(source, int) else source)]
    places = [axis % rank for axis in ((destination,) if isinstance(destination, int) else destination)]
    rest = iter(axis for axis in range(rank) if axis not in sources)
    perm = [sources[places.index(i)] if i in places else next(rest) for i in range(rank)]
    return ctx.emit("transpose", input, perm=perm)


# --- joining and repeating ---------------------------------------------------------------------------------------------


@lower_function(torch.cat, torch.concat, torch.concatenate)
def cat(ctx: LoweringContext, tensors: Sequence[Operand], dim: int = 0) -> Value:
    kept = [item for item in tensors if not (isinstance(item, torch.Tensor) and item.numel() == 0)]
    dtype = ctx.promoted_dtype(*tensors) if len(tensors) > 1 else None
    operands = [ctx.cast(item, dtype, what=f"cast{i}") if dtype else ctx.value(item) for i, item in enumerate(kept)]
    axis = next((axis for axis in (ctx.axis(operand, dim) for operand in operands) if axis >= 0), dim)
    return ctx.emit("cat", *operands, axis=axis)


def _joined(ctx: LoweringContext, tensors: Sequence[Operand], least: int, axis: int) -> Value:
    """Concatenation after lower ranks were raised to `least` by axes in front (numpy's hstack, vstack)."""
    values = [ctx.value(item) for item in tensors]
    raised = [
        ctx.reshape(value, (*(1,) * (least - ctx.rank(value)), *ctx.sizes(value)), what=f"item{i}")
        if ctx.rank(value) < least
        else value
        for i, value in enumerate(values)
    ]
    return cat(ctx, raised, axis)


@lower_function(torch.hstack)
def hstack(ctx: LoweringContext, tensors: Sequence[Operand]) -> Value:
    flat = all(ctx.rank(ctx.value(item)) <= 1 for item in tensors)
    return _joined(ctx, tensors, 1, 0 if flat else 1)


@lower_function(torch.vstack, torch.row_stack)
def vstack(ctx: LoweringContext, tensors: Sequence[Operand]) -> Value:
    return _joined(ctx, tensors, 2, 0)


@lower_function(torch.stack)
def stack(ctx: LoweringContext, tensors: Sequence[Operand], dim: int = 0) -> Value:
    dtype = ctx.promoted_dtype(*tensors) if len(tensors) > 1 else None
    values = [ctx.cast(item, dtype, what=f"cast{i}") if dtype else ctx.value(item) for i, item in enumerate(tensors)]
    position = dim % (ctx.rank(values[0]) + 1)
    items = []
    for i, value in enumerate(values):
        sizes = ctx.sizes(value)
        items.append(ctx.reshape(value, (*sizes[:position], 1, *sizes[position:]), what=f"item{i}"))
    return ctx.emit("cat", *items, axis=position)


@lower_function(torch.meshgrid, torch.functional.meshgrid)
def meshgrid(ctx: LoweringContext, *tensors: Any, indexing: str = "ij") -> tuple[Value, ...]:
    """Each vector along its axis, broadcast over the others."""
    values = [ctx.value(item) for item in varargs(tensors)]
    counts = [ctx.known_shape(value)[0] if ctx.rank(value) else 1 for value in values]
    swapped = indexing == "xy" and len(values) >= 2
    order = [1, 0, *range(2, len(values))] if swapped else list(range(len(values)))
    shape = [counts[i] for i in order]
    results = []
    for i, (value, name) in enumerate(zip(values, ctx.result_names(len(values)), strict=True)):
        line = ctx.reshape(value, [counts[i] if place == i else 1 for place in order], what=f"line{i}")
        results.append(ctx.emit_results("expand", line, names=[name], shape=shape)[0])
    return tuple(results)


@lower_method("expand", alias=Alias.VIEW)
def expand_method(ctx: LoweringContext, input: Value, *sizes: Any) -> Value:
    return _expand(ctx, input, varargs(sizes))


@lower_function(torch.broadcast_to, alias=Alias.VIEW)
def broadcast_to(ctx: LoweringContext, input: Value, size: Sequence[Size]) -> Value:
    return _expand(ctx, input, tuple(size))


@lower_method("expand_as", alias=Alias.VIEW)
def expand_as(ctx: LoweringContext, input: Value, other: Value) -> Value:
    return _expand(ctx, input, ctx.sizes(other))


def _expand(ctx: LoweringContext, input: Value, sizes: tuple[Size, ...]) -> Value:
    own = ctx.sizes(input)
    lead = len(sizes) - len(own)
    target = []
    for i, size in enumerate(sizes):
        mine = own[i - lead] if i >= lead else None
        same = isinstance(mine, int) and isinstance(size, int) and mine == size
        same_unknown = isinstance(mine, UnknownSize) and isinstance(size, UnknownSize) and mine.axis == size.axis
        target.append(-1 if same or same_unknown else int(size))
    return ctx.emit("expand", input, shape=target)


@lower_method("repeat")
def repeat(ctx: LoweringContext, input: Value, *sizes: Any) -> Value:
    return _tile(ctx, input, varargs(sizes))


@lower_function(torch.tile)
def tile(ctx: LoweringContext, input: Value, *dims: Any) -> Value:
    repeats = varargs(dims)
    return _tile(ctx, input, (1,) * (ctx.rank(input) - len(repeats)) + repeats)


@lower_function(torch.repeat_interleave)
def repeat_interleave(
    ctx: LoweringContext, input: Value, repeats: Operand, dim: int | None = None, *, output_size: int | None = None
) -> Value:
    """Each element `repeats` times in a row: a gather with known indices."""
    if isinstance(repeats, Value):
        raise ctx.error("repeat_interleave by a tensor that is computed gives a size that depends on data; give a constant")
    if dim is None:
        input, dim = ctx.reshape(input, (-1,), what="flat"), 0
    axis = ctx.axis(input, dim)
    size = ctx.size(input, axis)
    counts = torch.as_tensor(repeats).reshape(-1).expand(size) if not isinstance(repeats, int) else repeats
    indices = torch.repeat_interleave(torch.arange(size), counts)
    return ctx.emit("gather", input, ctx.parameter(indices, "order"), axis=axis)


def _tile(ctx: LoweringContext, input: Value, repeats: tuple[int, ...]) -> Value:
    if 0 in repeats:
        raise EmptyResultError("a repeat of 0 leaves nothing")
    lead = len(repeats) - ctx.rank(input)
    if lead > 0:
        input = ctx.reshape(input, (*(1,) * lead, *ctx.sizes(input)), what="expanded")
    return ctx.emit("tile", input, repeats=repeats)


# --- shuffles ----------------------------------------------------------------------------------------------------------


@lower_module(nn.PixelShuffle)
def pixel_shuffle_module(ctx: LoweringContext, module: nn.PixelShuffle, input: Value) -> Value:
    return pixel_shuffle(ctx, input, module.upscale_factor)


@lower_function(F.pixel_shuffle)
def pixel_shuffle(ctx: LoweringContext, input: Value, upscale_factor: int) -> Value:
    return ctx.emit("pixel_shuffle", input, factor=upscale_factor)


@lower_module(nn.PixelUnshuffle)
def pixel_unshuffle_module(ctx: LoweringContext, module: nn.PixelUnshuffle, input: Value) -> Value:
    return pixel_unshuffle(ctx, input, module.downscale_factor)


@lower_function(F.pixel_unshuffle)
def pixel_unshuffle(ctx: LoweringContext, input: Value, downscale_factor: int) -> Value:
    return ctx.emit("pixel_unshuffle", input, factor=downscale_factor)


@lower_module(nn.ChannelShuffle)
def channel_shuffle_module(ctx: LoweringContext, module: nn.ChannelShuffle, input: Value) -> Value:
    return channel_shuffle(ctx, input, module.groups)


@lower_function(F.channel_shuffle)
def channel_shuffle(ctx: LoweringContext, input: Value, groups: int) -> Value:
    sizes = ctx.sizes(input)
    channels = ctx.size(input, 1)
    split = ctx.reshape(input, (sizes[0], groups, channels // groups, *sizes[2:]), what="groups")
    swapped = ctx.emit("transpose", split, what="swapped", perm=(0, 2, 1, *range(3, len(sizes) + 1)))
    return ctx.reshape(swapped, (sizes[0], channels, *sizes[2:]))
