"""nn.MultiheadAttention and transformer layers as torch.onnx writes them: numbers of onnxruntime, and the plan of the torch model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hqc
from benchmarks.onnx_zoo import TOLERANCE, error_of, operations, write
from hqc.workflow.onnx_module import module_of

WIDTH, HEADS, LENGTH, OTHER = 8, 2, 5, 7
CAUSAL = torch.full((LENGTH, LENGTH), -math.inf).triu(1)
MASKS = {"causal": CAUSAL, "boolean": CAUSAL != 0, "finite": torch.linspace(-1, 1, LENGTH * LENGTH).reshape(LENGTH, LENGTH)}


def attention(**options: object) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(WIDTH, HEADS, **options)  # type: ignore[arg-type]


class Itself(nn.Module):
    """Self-attention. `weights`: False, True (asked for, and dropped) or "all"."""

    def __init__(self, layer: nn.MultiheadAttention, weights: object = False, mask: Tensor | None = None) -> None:
        super().__init__()
        self.layer, self.weights = layer, weights
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> object:
        found = self.layer(x, x, x, need_weights=bool(self.weights), attn_mask=self.mask, key_padding_mask=padding)
        return found if self.weights == "all" else found[0]


class Across(nn.Module):
    """As DETR has it: positions beside queries and keys, then attention to another sequence, and a sum behind each."""

    def __init__(self, weights: bool, batch_first: bool) -> None:
        super().__init__()
        self.first, self.second = attention(batch_first=batch_first), attention(batch_first=batch_first, bias=False)
        self.weights = weights

    def forward(self, x: Tensor, position: Tensor, y: Tensor) -> Tensor:
        query = key = x + position
        x = x + self.first(query, key, value=x, need_weights=self.weights)[0]
        return x + self.second(x + position, y, y, need_weights=self.weights)[0]


class Encoder(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=batch_first, norm_first=batch_first, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(WIDTH), enable_nested_tensor=False)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        return self.encoder(x, src_key_padding_mask=padding)


class Whole(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.transformer = nn.Transformer(WIDTH, HEADS, 1, 2, 16, batch_first=batch_first)
        self.register_buffer("mask", CAUSAL)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.transformer(y, x, tgt_mask=self.mask)


Kind = Callable[[bool], nn.Module]
ALONE: dict[str, Kind] = {
    "plain": lambda first: Itself(attention(batch_first=first)),
    "weights dropped": lambda first: Itself(attention(batch_first=first), True),
    "weights returned": lambda first: Itself(attention(batch_first=first), "all"),
    "more keys": lambda first: Itself(attention(batch_first=first, add_bias_kv=True, add_zero_attn=True)),
    **{name: lambda first, name=name: Itself(attention(batch_first=first), first, MASKS[name]) for name in MASKS},  # type: ignore[misc]
}
PADDED: dict[str, Kind] = {
    "padding": lambda first: Itself(attention(batch_first=first), first),
    "padding and mask": lambda first: Itself(attention(batch_first=first), False, MASKS["causal"]),
    "padding, mask and weights": lambda first: Itself(attention(batch_first=first), True, MASKS["boolean"]),
    "encoder": Encoder,
}


def rows(batch: int, length: int, batch_first: bool) -> Tensor:
    shape = (batch, length, WIDTH) if batch_first else (length, batch, WIDTH)
    return torch.linspace(-1, 1, math.prod(shape)).reshape(shape).sin()


def same(network: nn.Module, inputs: tuple[Tensor, ...], opset: int, path: Path) -> None:
    with torch.enable_grad():  # without gradients torch takes a fast path that is not exported
        assert not write(network.eval(), inputs, opset, path)
    assert error_of(module_of(path)[0], path, inputs) < TOLERANCE
    for march in ("bernoulli2", "bayes"):
        plans = operations(hqc.explain(network, inputs, march=march)), operations(hqc.explain(path, march=march))
        assert plans[0] == plans[1], march


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [*ALONE, *PADDED])
def test_self_attention(kind: str, batch_first: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch = 2 - len(kind) % 2
    inputs: tuple[Tensor, ...] = (rows(batch, LENGTH, batch_first),)
    if kind in PADDED:
        inputs = (*inputs, torch.arange(LENGTH).repeat(batch, 1) > 2)
    same({**ALONE, **PADDED}[kind](batch_first), inputs, 17, tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("weights", "batch_first", "batch", "opset"),
    [(False, False, 1, 17), (True, False, 2, 13), (False, True, 2, 14), (True, True, 1, 17)],
)
def test_attention_to_another_sequence(weights: bool, batch_first: bool, batch: int, opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inputs = (rows(batch, LENGTH, batch_first), torch.randn(1, 1, WIDTH), rows(batch, OTHER, batch_first))
    same(Across(weights, batch_first), inputs, opset, tmp_path / "net.onnx")


@pytest.mark.parametrize("batch_first", [False, True])
def test_whole_transformer(batch_first: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    same(Whole(batch_first), (rows(1, LENGTH, batch_first), rows(1, OTHER, batch_first)), 17, tmp_path / "net.onnx")


def test_attention_without_a_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    same(Itself(attention()), (torch.randn(LENGTH, WIDTH),), 17, tmp_path / "net.onnx")


def test_a_sum_behind_attention_is_added_in_its_last_projection() -> None:
    """Its result is quantized once then. `Across` has two."""
    for batch_first in (False, True):
        inputs = (rows(1, LENGTH, batch_first), torch.randn(1, 1, WIDTH), rows(1, OTHER, batch_first))
        graph = hqc.explain(Across(True, batch_first), inputs, march="bayes").graph
        layers = [node for node in graph.nodes if node.op.name == "linear"]
        assert sum(node.operand("residual") is not None for node in layers) == 2
