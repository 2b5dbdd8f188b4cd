"""`flex_attention` is its formula: masks and changes of scores, of constants and of traced tensors, against torch's own kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import and_masks, create_block_mask, flex_attention

from hqc.errors import TraceError
from hqc.frontend.fx import lower_graph_module, trace

STEPS = 12
compiled = torch.compile(flex_attention)


@torch.compile
def rows_of_one_length(x: Any) -> Any:
    return x / x.norm(dim=-1, keepdim=True) if isinstance(x, torch.Tensor) else x


def causal(batch: Any, head: Any, row: Any, column: Any) -> Any:
    return row >= column


def near(batch: Any, head: Any, row: Any, column: Any) -> Any:
    return row - column < 4


def plain(model: Any, q: Any, k: Any, v: Any) -> Any:
    return flex_attention(q, k, v, scale=0.3)


def slopes(model: Any, q: Any, k: Any, v: Any) -> Any:
    return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + model.slopes[h] * (j - i))


def table(model: Any, q: Any, k: Any, v: Any) -> Any:
    return flex_attention(q, k, v, score_mod=lambda score, b, h, i, j: score + model.table[h, i - j + STEPS])


def window(model: Any, q: Any, k: Any, v: Any) -> Any:
    mask = create_block_mask(and_masks(causal, near), q.shape[0], 2, q.shape[2], k.shape[2], device=q.device)
    return flex_attention(q, k, v, block_mask=mask)


def made_before(model: Any, q: Any, k: Any, v: Any) -> Any:
    return flex_attention(q, k, v, block_mask=model.mask)


def of_data(model: Any, q: Any, k: Any, v: Any) -> Any:
    """The last row of a sequence has nothing that it may look at."""
    keep = k[:, 0, :, 0] > 0
    mask = create_block_mask(
        lambda b, h, i, j: keep[b, j] & (i >= j) & (i < STEPS - 1), q.shape[0], None, STEPS, STEPS, device="cpu"
    )
    return flex_attention(q, k, v, block_mask=mask)


def grouped(model: Any, q: Any, k: Any, v: Any) -> Any:
    return flex_attention(q, k[:, :1], v[:, :1], enable_gqa=True)


class Attention(nn.Module):
    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.call = call
        self.slopes, self.table = nn.Parameter(torch.rand(2)), nn.Parameter(torch.randn(2, 2 * STEPS))
        self.mask = create_block_mask(causal, None, None, STEPS, STEPS, device="cpu")

    def forward(self, q: Any, k: Any, v: Any) -> Any:
        return self.call(self, q, k, v)


@pytest.mark.parametrize("call", [plain, slopes, table, window, made_before, of_data, grouped], ids=lambda call: call.__name__)
def test_the_formula_is_what_the_kernel_computes(call: Callable[..., Any]) -> None:
    torch.manual_seed(1)
    inputs = tuple(torch.randn(2, 2, STEPS, 8) for _ in range(3))
    model = Attention(call).eval()
    traced = trace(model, inputs)
    with torch.no_grad():
        torch.testing.assert_close(traced(*inputs), model(*inputs), rtol=1e-4, atol=1e-5)
    lowered = lower_graph_module(traced, inputs)
    assert not lowered.opaque


class Compiled(nn.Module):
    """Functions of `torch.compile`: of a name, of a decorator, and held by the model."""

    def __init__(self) -> None:
        super().__init__()
        self.double = torch.compile(lambda x: x + x.relu())

    def forward(self, x: Any) -> Any:
        return compiled(rows_of_one_length(self.double(x)), x, x)


def test_compiled_functions_are_what_was_compiled() -> None:
    x = torch.randn(1, 2, STEPS, 8)
    traced = trace(Compiled(), x)
    assert not traced.meta["hqc_warnings"], "torch.export ran it"
    rows = (x + x.relu()) / (x + x.relu()).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(traced(x), torch.nn.functional.scaled_dot_product_attention(rows, x, x), rtol=1e-4, atol=1e-5)


def test_sizes_are_asked_for() -> None:
    with pytest.raises(TraceError, match="flex_attention needs the sizes"):
        trace(Attention(plain).eval())
