"""`x.as_strided(size, stride)`: what it reads is a matter of how x lies in memory, which a graph does not say.

A traced graph has values and no memory: who runs it may hold x in another order than the model does (behind a fake quant, in a
file). So the order that x has in the model becomes a part of the call, and the call a function of values alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from hqc.errors import TraceError
from hqc.frontend.fx.known import UNKNOWN, KnownValues, is_plain, memory_of, storage_of
from hqc.frontend.fx.locations import SOURCE_META

_READS = ("as_strided", torch.as_strided)


def as_strided(x: torch.Tensor, size: Sequence[int], stride: Sequence[int], offset: int, order: Sequence[int]) -> torch.Tensor:
    """`x.as_strided(size, stride, offset)` where the axes of x lie in memory in `order`, the innermost one last, without gaps.

    `offset` counts from the first element of x.
    """
    inner = x.permute(tuple(order)).contiguous()
    return inner.as_strided(tuple(size), tuple(stride), inner.storage_offset() + offset)


def settle_strides(graph: fx.Graph, known: KnownValues) -> None:
    """Let every `as_strided` in `graph` name the order of the memory that it reads.

    Raises `TraceError` with the user's line where it reads memory that no value of the graph covers.
    """
    seen: list[fx.Node] = []
    for node in graph.nodes:
        if node.target in _READS and node.op in ("call_method", "call_function") and known.of(node) is not UNKNOWN:
            _settle(node, seen, known)
        seen.append(node)


def _settle(node: fx.Node, before: Sequence[fx.Node], known: KnownValues) -> None:
    given: dict[str, Any] = dict(zip(("input", "size", "stride", "storage_offset"), node.args, strict=False)) | node.kwargs
    base = given["input"]
    part = known.of(base) if isinstance(base, fx.Node) else UNKNOWN
    stride, offset = (fx.node.map_arg(given.get(name), known.of) for name in ("stride", "storage_offset"))
    if not isinstance(part, torch.Tensor) or not is_plain((stride, offset)):
        return
    start = part.storage_offset() if offset is None else offset
    whole = next((each for each in (base, *before) if _is_whole(known.of(each), part)), None)
    if whole is None:
        raise TraceError(
            f"{node.meta.get(SOURCE_META, '')}: {node.name} reads memory that {base.name} is a part of, and no tensor of the graph "
            f"is the whole; call {base.name}.contiguous() before it"
        )
    memory = known.of(whole)
    node.op, node.target = "call_function", as_strided
    node.args = (whole, given["size"], tuple(stride or ()), start - memory.storage_offset(), memory_order(memory))
    node.kwargs = {}


def _is_whole(value: Any, part: torch.Tensor) -> bool:
    """True for a tensor that has all the memory of `part`, without gaps, each element once."""
    memory = storage_of(value)
    if memory is None or memory_of(value) != memory_of(part):
        return False
    covers = value.numel() * value.element_size() == memory.nbytes() and value.dtype == part.dtype
    return covers and bool(value.permute(memory_order(value)).is_contiguous())


def memory_order(value: torch.Tensor) -> tuple[int, ...]:
    """The axes of a tensor, the one with the largest stride first."""
    sizes, strides = value.shape, value.stride()
    return tuple(sorted(range(value.ndim), key=lambda axis: (-strides[axis], sizes[axis] != 1, axis)))
