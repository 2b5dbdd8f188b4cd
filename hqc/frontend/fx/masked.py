"""Writes where a computed mask holds: `x[mask] = 0.0` and `x[mask] = y[mask]` are choices between two tensors.

`y[mask]` alone has as many elements as the data decides; where nothing but such a write reads it, no size is asked for.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from hqc.frontend.fx.calls import set_item_of_copy
from hqc.frontend.fx.context import LoweringContext
from hqc.frontend.fx.registry import lower_function
from hqc.ir import DType, Value


@dataclass(frozen=True)
class MaskedPart:
    """The elements of `source` where `mask` holds."""

    source: Value | torch.Tensor
    mask: Value


def masked_part(node: fx.Node, source: Any, mask: Any) -> MaskedPart | None:
    """What `node`, which takes `source[mask]`, gives, where writes by the same mask are all that reads it."""
    if not isinstance(source, (Value, torch.Tensor)) or not _is_mask(mask):
        return None
    writes = all(
        user.target in (operator.setitem, set_item_of_copy) and user.args[1] is node.args[1] and user.args[2] is node
        for user in node.users
    )
    return MaskedPart(source, mask) if writes else None


@lower_function(set_item_of_copy)
def masked_write(ctx: LoweringContext, target: Value | torch.Tensor, index: Any, value: Any) -> Value:
    """`target` after `target[index] = value`, where `index` is a computed mask."""
    sizes = ctx.shape(target)
    covered = ctx.shape(index) if _is_mask(index) else None
    fits = sizes is not None and covered is not None and None not in covered and covered == sizes[: len(covered)]
    if isinstance(value, MaskedPart):
        if not fits or value.mask is not index or ctx.shape(value.source) != sizes:
            raise ctx.error("an index by a computed mask has a size that depends on data; use torch.where or a multiplication")
        value = value.source
    elif not fits or not (isinstance(value, (bool, int, float)) or _is_number(ctx, value)):
        raise ctx.cannot("an assignment to a part of a tensor")
    assert sizes is not None and covered is not None
    if len(covered) < len(sizes):
        index = ctx.reshape(index, (*ctx.sizes(index), *(1,) * (len(sizes) - len(covered))), what="mask_of_rows")
    filler, kept = ctx.promote(value, target, dtype=ctx.value(target).type.dtype)
    return ctx.emit("where", index, filler, kept)


def _is_number(ctx: LoweringContext, value: Any) -> bool:
    return isinstance(value, (Value, torch.Tensor)) and ctx.shape(value) == ()


def _is_mask(index: Any) -> bool:
    return isinstance(index, Value) and index.type.dtype is DType.BOOL
