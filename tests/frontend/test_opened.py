"""Attention and transformer layers are traced as the operations they consist of, and compute what torch computes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from lowering_harness import check, lower_model
from torch import nn

from hqc.ir import Trait

torch.manual_seed(0)
ROWS, OTHER = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
CAUSAL = torch.full((5, 5), -math.inf).triu(1)
PADDED = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])


class Itself(nn.Module):
    """Self-attention, with constant and computed masks."""

    def __init__(self, masked: bool = False, **options: object) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)  # type: ignore[arg-type]
        self.register_buffer("mask", CAUSAL if masked else None)

    def forward(self, x: torch.Tensor) -> object:
        mask = None if self.mask is None else self.mask[: x.shape[1], : x.shape[1]]
        return self.attention(x, x, x, attn_mask=mask)


class Across(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True, kdim=8, vdim=8)
        self.other = nn.MultiheadAttention(8, 4, batch_first=True, bias=False, add_bias_kv=True, add_zero_attn=True)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        first, _ = self.attention(x, y, y * 2, need_weights=False)
        second, weights = self.other(first, y, y, average_attn_weights=False)
        return second + weights.sum((1, 3))[..., None]


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu")

    def forward(self, x: torch.Tensor, padded: torch.Tensor) -> torch.Tensor:
        return self.layer(x, src_key_padding_mask=padded)


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.Transformer(8, 2, 1, 2, 16, batch_first=True)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.transformer(y, x, tgt_mask=nn.Transformer.generate_square_subsequent_mask(5))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[torch.Tensor, ...]]] = {
    "itself": (lambda: Itself(batch_first=True), (ROWS,)),
    "sequence_first": (lambda: Itself(), (ROWS,)),
    "unbatched": (lambda: Itself(batch_first=True), (ROWS[0],)),
    "masked": (lambda: Itself(masked=True, batch_first=True, dropout=0.1), (ROWS,)),
    "across": (Across, (ROWS, OTHER)),
    "padded": (Padded, (ROWS, PADDED)),
    "whole": (Whole, (ROWS, OTHER)),
}


@pytest.mark.parametrize("name", MODELS)
def test_opened_module_computes_what_torch_computes(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = MODELS[name]
    with torch.enable_grad():  # without gradients torch takes a fast path that writes zeros where padding is
        lowered = check(make(), *inputs)
    assert not any(node.op.has(Trait.OPAQUE) for node in lowered.graph.nodes)


def test_self_attention_is_one_projection() -> None:
    ops = [node.op.name for node in lower_model(Itself(batch_first=True).eval(), ROWS).graph.nodes]
    assert ops.count("linear") == 2 and ops.count("split") == 1 and ops.count("matmul") == 2
    assert "where" not in ops


def test_a_subclass_with_a_forward_of_its_own_is_not_opened() -> None:
    class Mine(nn.MultiheadAttention):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return x * 2

    lowered = check(nn.Sequential(Mine(8, 2)), ROWS)
    assert [node.op.name for node in lowered.graph.nodes] == ["mul"]
