"""Grouped matrix products (`torch.nn.functional.grouped_mm`) as the products and choices that they stand for: mixtures of experts.

Where one group of rows ends and the next begins depends on the data, but no shape does. The kernel's own shapes are known to torch for
bfloat16 alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from hqc.frontend.fx.patches import Patches
from hqc.frontend.fx.proxies import find_proxy


def open_grouped_products(patches: Patches) -> None:
    """While tracing, grouped products of proxies are their formula."""
    for owner, name in ((torch.nn.functional, "grouped_mm"), (torch, "_grouped_mm")):
        kernel = getattr(owner, name, None)
        if kernel is not None:  # both are newer than the oldest torch that hqc runs with
            patches.function(owner, name, _traced(kernel))


def _traced(kernel: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(kernel)
    def function(mat_a: Any, mat_b: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
        given = {name: item for name, item in (("offs", offs), ("bias", bias), ("out_dtype", out_dtype)) if item is not None}
        traced = find_proxy((mat_a, mat_b, offs)) is not None and bias is None
        if not traced or (offs is not None and (mat_a.dim() != 2 or mat_b.dim() != 3)):
            return kernel(mat_a, mat_b, **given)
        result = torch.matmul(mat_a, mat_b) if offs is None else _of_rows(mat_a, mat_b, offs)
        return result if out_dtype is None else result.to(out_dtype)

    return function


def _of_rows(rows: Any, matrices: Any, ends: Any) -> Any:
    """`[S, N]` of rows `[S, K]` and matrices `[E, K, N]`: row s times the first matrix whose end lies behind s; 0 behind the last end,
    where the kernel writes nothing.

    All rows are multiplied with all matrices, and each takes its own: a file has no products of sizes that depend on the data, and
    gathering a matrix for every row would take far more memory.
    """
    places = torch.arange(rows.shape[0], device=rows.device)
    before = places[None] < ends[:, None]
    earlier = torch.cat([torch.zeros_like(before[:1]), before[:-1]])
    mine = before & ~earlier
    products = torch.matmul(rows[None], matrices)
    return torch.where(mine[:, :, None], products, 0.0).sum(0)
