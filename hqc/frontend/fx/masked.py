"""Writes where a computed mask holds: `x[mask] = 0.0` and `x[mask] = 2 * y[mask]` are choices between two tensors.

`y[mask]` alone has as many elements as the data decides; where nothing but element-wise steps on the way to a write by the same mask
reads it, no size is asked for: the steps are computed for all elements, and the write chooses.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from types import BuiltinFunctionType
from typing import Any

import torch
from torch import fx

from hqc.frontend.fx.calls import set_item_of_copy
from hqc.frontend.fx.context import LoweringContext
from hqc.frontend.fx.registry import lower_function
from hqc.ir import DType, Node, Trait, Value
from hqc.structures import leaves, map_structure, reached

_SIZE = "an index by a computed mask has a size that depends on data; use torch.where or a multiplication"


class MaskedPart:
    """The elements of `source` where `mask` holds."""

    def __init__(self, source: Value | torch.Tensor, mask: Value) -> None:
        self.source, self.mask = source, mask


def masked_part(node: fx.Node, source: Any, mask: Any) -> MaskedPart | None:
    """What `node`, which takes `source[mask]`, gives, where it only goes, by calls, into writes by a mask."""
    if not isinstance(source, (Value, torch.Tensor)) or not _is_mask(mask):
        return None
    goes_into = reached(node, lambda user: () if writes_value(user) else user.users)
    ends = [user for user in goes_into if writes_value(user) or not user.users]
    return MaskedPart(source, mask) if ends and all(map(writes_value, ends)) else None


def index_of_mask(node: fx.Node) -> Any:
    """The operand of `torch.where(mask)` and `mask.nonzero(as_tuple=True)`, where all that reads them indexes by them: as by the mask."""
    asks = node.target is torch.where or (
        node.target in (torch.nonzero, "nonzero") and node.kwargs.get("as_tuple", node.args[1:] == (True,))
    )
    reads = (*node.args, *(node.kwargs[name] for name in ("input", "condition") if name in node.kwargs))
    if not asks or not reads or (node.target is torch.where and len(reads) > 1):
        return None
    indexes = all(
        user.target in (operator.getitem, operator.setitem, set_item_of_copy)
        and user.args[1] is node
        and user.args[0] is not node
        for user in node.users
    )
    return reads[0] if indexes and node.users else None


def writes_value(node: fx.Node) -> bool:
    """Whether `node` is an assignment to a part of a tensor."""
    return node.target in (operator.setitem, set_item_of_copy)


def has_masked_part(structure: Any) -> bool:
    return any(isinstance(item, MaskedPart) for item in leaves(structure))


def masked_step(ctx: LoweringContext, operands: dict[fx.Node, Any], lower: Callable[[dict[fx.Node, Any]], Any]) -> Any:
    """The result of a call whose `operands` have parts by one mask among them, as such a part.

    `lower` lowers the call on whole tensors. It must be element-wise operations, for only then the part of its result is its
    result of the part; its other operands are as large as one element of a part, at most.
    """
    parts = [item for item in leaves(list(operands.values())) if isinstance(item, MaskedPart)]
    others = [item for item in leaves(list(operands.values())) if isinstance(item, (Value, torch.Tensor))]
    mask, shape = parts[0].mask, ctx.shape(parts[0].source)
    rows = ctx.rank(parts[0].source) - ctx.rank(mask)
    if (
        not all(same_value(part.mask, mask) and ctx.shape(part.source) == shape for part in parts)
        or not fits(ctx, mask, parts[0].source)
        or any(ctx.rank(item) > rows for item in others)
    ):
        raise ctx.error(_SIZE)
    before = set(ctx.graph.nodes)
    result = lower(map_structure(operands, lambda item: item.source if isinstance(item, MaskedPart) else item))
    made = [node for node in ctx.graph.nodes if node not in before]
    is_step = all(map(_is_elementwise, made)) or (len(made) == 1 and is_pointwise(ctx.node.target))
    if not (isinstance(result, Value) and ctx.shape(result) == shape and is_step):
        raise ctx.error(_SIZE)
    return MaskedPart(result, mask)


def _is_elementwise(node: Node) -> bool:
    return node.op.has(Trait.ELEMENTWISE) or node.op.has(Trait.BOUNDARY)


_OPERATORS = {"mod": "remainder", "floordiv": "floor_divide", "truediv": "div"}
_COMPOSED = frozenset(("floor_divide", "arctan2"))  # of element-wise steps, so that torch gives them no tag


@functools.cache
def is_pointwise(target: Any) -> bool:
    """Whether a function of torch or of Python's operators, or the method of this name, computes each element from those at its place."""
    if not isinstance(target, (str, BuiltinFunctionType)):
        return False
    name = (target if isinstance(target, str) else target.__name__).strip("_")
    name = _OPERATORS.get(name, name)
    packet = getattr(torch.ops.aten, name, None)
    if packet is None or name in _COMPOSED:
        return name in _COMPOSED
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())


def fits(ctx: LoweringContext, mask: Value, whole: Value | torch.Tensor) -> bool:
    """Whether the sizes of a mask are known to be the first ones of `whole`."""
    sizes, covered = ctx.shape(whole), ctx.shape(mask)
    return sizes is not None and covered is not None and None not in covered and covered == sizes[: len(covered)]


def same_value(one: Value | None, other: Value | None) -> bool:
    """Whether two values are the same result, or results of the same operations on the same values."""
    pending = [(one, other)]
    while pending:
        one, other = pending.pop()
        if one is other:
            continue
        if one is None or other is None:
            return False
        if one.array is not None and other.array is not None:
            if one.type != other.type or one.array.tobytes() != other.array.tobytes():
                return False
            continue
        a, b = one.producer, other.producer
        if a is None or b is None or a.op is not b.op or a.op.has(Trait.OPAQUE) or a.attributes != b.attributes:
            return False
        if a.results.index(one) != b.results.index(other) or len(a.inputs) != len(b.inputs):
            return False
        pending.extend(zip(a.inputs, b.inputs, strict=True))
    return True


@lower_function(set_item_of_copy)
def masked_write(ctx: LoweringContext, target: Value | torch.Tensor, index: Any, value: Any) -> Value:
    """`target` after `target[index] = value`, where `index` is a computed mask."""
    is_mask = _is_mask(index) and fits(ctx, index, target)
    if isinstance(value, MaskedPart):
        if not is_mask or not same_value(value.mask, index) or ctx.shape(value.source) != ctx.shape(target):
            raise ctx.error(_SIZE)
        value = value.source
    elif not is_mask or not (isinstance(value, (bool, int, float)) or _is_number(ctx, value)):
        raise ctx.cannot("an assignment to a part of a tensor")
    missing = ctx.rank(target) - ctx.rank(index)
    if missing:
        index = ctx.reshape(index, (*ctx.sizes(index), *(1,) * missing), what="mask_of_rows")
    filler, kept = ctx.promote(value, target, dtype=ctx.value(target).type.dtype)
    return ctx.emit("where", index, filler, kept)


def _is_number(ctx: LoweringContext, value: Any) -> bool:
    return isinstance(value, (Value, torch.Tensor)) and ctx.shape(value) == ()


def _is_mask(index: Any) -> bool:
    return isinstance(index, Value) and index.type.dtype is DType.BOOL
