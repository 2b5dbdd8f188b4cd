"""Cutting a tensor into parts: one IR node with a result per part."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from hqc.frontend.fx.context import LoweringContext, Operand, to_torch_dtype
from hqc.frontend.fx.registry import Alias, lower_function
from hqc.ir import Value


def emit_split(ctx: LoweringContext, input: Value, axis: int, sizes: Sequence[int]) -> tuple[Operand, ...]:
    """A split node whose results are named after the FX nodes that take them; parts of size 0 are constants."""
    names = ctx.result_names(len(sizes))
    axis = ctx.axis(input, axis)
    cut = [(name, size) for name, size in zip(names, sizes, strict=True) if size]
    results = iter(
        ctx.emit_results("split", input, names=[name for name, _ in cut], axis=axis, sizes=[size for _, size in cut])
    )
    if len(cut) == len(sizes):
        return tuple(results)
    shape = list(ctx.known_shape(input))
    shape[axis] = 0
    empty = torch.empty(shape, dtype=to_torch_dtype(input.type.dtype))
    return tuple(next(results) if size else empty for size in sizes)


@lower_function(torch.split, torch.functional.split, alias=Alias.VIEW)
def split(ctx: LoweringContext, tensor: Value, split_size_or_sections: Any, dim: int = 0) -> tuple[Operand, ...]:
    if not isinstance(split_size_or_sections, int):
        return emit_split(ctx, tensor, dim, [int(size) for size in split_size_or_sections])
    total, step = ctx.size(tensor, dim), split_size_or_sections
    return emit_split(ctx, tensor, dim, [min(step, total - start) for start in range(0, total, step)])


@lower_function(torch.split_with_sizes, alias=Alias.VIEW)
def split_with_sizes(ctx: LoweringContext, input: Value, split_sizes: Sequence[int], dim: int = 0) -> tuple[Operand, ...]:
    return emit_split(ctx, input, dim, [int(size) for size in split_sizes])


@lower_function(torch.chunk, alias=Alias.VIEW)
def chunk(ctx: LoweringContext, input: Value, chunks: int, dim: int = 0) -> tuple[Operand, ...]:
    total = ctx.size(input, dim)
    return split(ctx, input, -(-total // chunks), dim)


@lower_function(torch.tensor_split, alias=Alias.VIEW)
def tensor_split(ctx: LoweringContext, input: Value, indices_or_sections: Any, dim: int = 0) -> tuple[Operand, ...]:
    if isinstance(indices_or_sections, Value):
        raise ctx.error("tensor_split at indices that are computed gives sizes that depend on data; give constants")
    if isinstance(indices_or_sections, torch.Tensor):
        indices_or_sections = indices_or_sections.tolist()
    total = ctx.size(input, dim)
    if isinstance(indices_or_sections, int):
        quotient, remainder = divmod(total, indices_or_sections)
        sizes = [quotient + (i < remainder) for i in range(indices_or_sections)]
    else:
        bounds = [0, *(slice(None, index).indices(total)[1] for index in indices_or_sections), total]
        sizes = [max(0, end - start) for start, end in itertools.pairwise(bounds)]
    return emit_split(ctx, input, dim, sizes)


@lower_function(torch.unbind, alias=Alias.VIEW)
def unbind(ctx: LoweringContext, input: Value, dim: int = 0) -> tuple[Value, ...]:
    axis = ctx.axis(input, dim)
    count = ctx.size(input, dim)
    names = ctx.result_names(count)
    parts = ctx.emit_results(
        "split", input, names=[ctx.free_name(f"{name}_slice") for name in names], axis=axis, sizes=(1,) * count
    )
    results = []
    for part, name in zip(parts, names, strict=True):
        sizes = ctx.sizes(part)
        results.append(ctx.reshape(part, (*sizes[:axis], *sizes[axis + 1 :]), name=name))
    return tuple(results)
