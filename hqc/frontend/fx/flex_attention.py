"""`torch.nn.attention.flex_attention` as the products, the changes of scores and the softmax that it stands for.

Its kernels take functions of one score and its position, which `torch.vmap` runs; proxies cannot go through that. Here a function
runs once, on all scores and on positions that broadcast against them. Masks that constants alone decide are made by torch's own
`create_mask`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from hqc.errors import FAULTS, TraceError
from hqc.frontend.fx.patches import Patches
from hqc.frontend.fx.proxies import find_proxy

_HOME = "torch.nn.attention.flex_attention"


@dataclass(frozen=True)
class _TracedMask:
    """What stands for a `BlockMask` whose function reads traced tensors; `shape` as of that."""

    mask_mod: Callable[..., Any]
    shape: tuple[int, int, int, int]


def open_flex_attention(patches: Patches, where: Callable[[], str]) -> None:
    """While tracing, `flex_attention` of proxies is its formula. `where` gives the user's line."""
    home = sys.modules.get(_HOME)
    if home is None:  # slow to import; a model whose code is loaded has imported what it calls
        return
    kernel, make_mask = home.flex_attention, home.create_block_mask

    def attention(
        query: Any,
        key: Any,
        value: Any,
        score_mod: Any = None,
        block_mask: Any = None,
        scale: Any = None,
        enable_gqa: bool = False,
        return_lse: bool = False,
        kernel_options: Any = None,
        *,
        return_aux: Any = None,
    ) -> Any:
        if find_proxy((query, key, value)) is None:
            rest = {"return_aux": return_aux} if return_aux is not None else {}
            return kernel(query, key, value, score_mod, block_mask, scale, enable_gqa, return_lse, kernel_options, **rest)
        (batch, heads, rows, width), (_, groups, columns, _) = _sizes(query, where), _sizes(key, where)
        if heads != groups:
            key, value = (item.repeat_interleave(heads // groups, 1) for item in (key, value))
        scores = torch.matmul(query, key.transpose(-2, -1)) * (width**-0.5 if scale is None else scale)
        if score_mod is not None:
            scores = score_mod(scores, *_positions(batch, heads, rows, columns))
        if block_mask is not None:
            mask = _mask(home.create_mask, block_mask.mask_mod, (*block_mask.shape[:2], rows, columns))
            scores = scores.masked_fill(~mask, -torch.inf)
            weights = torch.softmax(scores, -1).masked_fill(~mask.any(-1, keepdim=True), 0.0)
        else:
            weights = torch.softmax(scores, -1)
        result = torch.matmul(weights, value)
        if return_lse:
            return result, scores.logsumexp(-1)
        if return_aux is None:
            return result
        lse = scores.logsumexp(-1) if return_aux.lse else None
        return result, home.AuxOutput(lse=lse, max_scores=scores.amax(-1) if return_aux.max_scores else None)

    def block_mask(mask_mod: Any, B: Any, H: Any, Q_LEN: Any, KV_LEN: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N803 (torch's)
        if find_proxy((B, H, Q_LEN, KV_LEN, _held(mask_mod))) is None:
            return make_mask(mask_mod, B, H, Q_LEN, KV_LEN, *args, **kwargs)
        batch, heads, rows, columns = (1 if size is None else int(size) for size in (B, H, Q_LEN, KV_LEN))
        return _TracedMask(mask_mod, (batch, heads, rows, columns))

    patches.function(home, "flex_attention", attention)
    patches.function(home, "create_block_mask", block_mask)


def _sizes(tensor: Any, where: Callable[[], str]) -> tuple[int, ...]:
    """The shape; the proxies of one are asked for their values."""
    tracer: Any = tensor.tracer if isinstance(tensor, fx.Proxy) else None
    value = tensor if tracer is None else tracer.known.of(tensor.node)
    if not isinstance(value, torch.Tensor):
        raise TraceError(f"{where()}: flex_attention needs the sizes of its inputs; give example_inputs")
    return tuple(value.shape)


def _positions(*sizes: int) -> list[torch.Tensor]:
    """The batch, head, row and column of every score, each along its own axis."""
    return [torch.arange(size).reshape([size if axis == at else 1 for at in range(4)]) for axis, size in enumerate(sizes)]


def _mask(make: Callable[..., torch.Tensor], function: Callable[..., Any], sizes: tuple[int, ...]) -> Any:
    """Which scores count, as `function` says: by torch where constants decide, else by one call on all positions."""
    if find_proxy(_held(function)) is None:
        try:
            return make(function, *sizes, device="cpu")
        except FAULTS:  # it reads traced tensors that no cell of it holds
            pass
    return function(*_positions(*sizes))


def _held(function: Any) -> list[Any]:
    """What a function closes over, and what functions that it closes over (`and_masks`) do."""
    found: list[Any] = []
    pending, seen = [function], set()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        found.append(item)
        for cell in getattr(item, "__closure__", None) or ():
            try:
                pending.append(cell.cell_contents)
            except ValueError:  # an empty cell
                continue
        if isinstance(item, (tuple, list)):
            pending.extend(item)
    return found
