"""Masks that are added to scores: what computes them, and what is done to masked scores before the softmax, is float."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import hqc

_T = torch.Tensor


class Scores(nn.Module):
    """Attention whose `weights` are made of scores `[1,4,4]` and a mask `[1,4]` of ones, with 0 at padded places."""

    def __init__(self, weights: Callable[[Scores, _T, _T], _T]) -> None:
        super().__init__()
        self.q, self.k, self.weights = nn.Linear(8, 8), nn.Linear(8, 8), weights
        self.bias = nn.Parameter(torch.linspace(-1, 1, 16).reshape(4, 4))

    def forward(self, x: _T, mask: _T) -> _T:
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        return self.weights(self, scores, mask[:, None, :]) @ x


LOWEST = torch.finfo(torch.float32).min


def _spelled_softmax(x: _T) -> _T:
    exponentials = (x - x.amax(-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(-1, keepdim=True)


IDIOMS: dict[str, Callable[[Scores, _T, _T], _T]] = {
    "times -1e4": lambda net, scores, mask: (scores + (1.0 - mask.float()) * -1e4).softmax(-1),
    "times the lowest": lambda net, scores, mask: (scores + (1.0 - mask.float()) * LOWEST).softmax(-1),
    "minus": lambda net, scores, mask: (scores * mask - 1e9 * (1 - mask.float())).softmax(-1),
    "filled": lambda net, scores, mask: (scores + torch.zeros_like(scores).masked_fill(mask == 0, -1e9)).softmax(-1),
    "scaled later": lambda net, scores, mask: (scores.masked_fill(mask == 0, -1e9) / 2.8).softmax(-1),
    "spelled softmax": lambda net, scores, mask: _spelled_softmax(scores.masked_fill(mask == 0, -1e9)),
    "floor": lambda net, scores, mask: torch.max(scores + (1.0 - mask.float()) * LOWEST, torch.tensor(LOWEST)).softmax(-1),
    "with a bias": lambda net, scores, mask: (scores + (net.bias + (1.0 - mask.float()) * -1e4)).softmax(-1),
    "of heads": lambda net, scores, mask: (scores.view(1, 2, 2, 4) + (mask[:, None] - 1.0) * 1e4).softmax(-1).view(1, 4, 4),
    "causal too": lambda net, scores, mask: (
        scores + torch.minimum(torch.triu(torch.full((4, 4), LOWEST), 1), (1.0 - mask.float()) * LOWEST)
    ).softmax(-1),
    "log and eps": lambda net, scores, mask: (scores + (mask.float() + 1e-45).log()).softmax(-1),
    "log and the least": lambda net, scores, mask: (
        (scores + torch.log(mask + torch.finfo(torch.float32).tiny)).log_softmax(-1).exp()
    ),
    "logarithms": lambda net, scores, mask: (scores + (1.0 - mask.float()) * -1e4).log_softmax(-1).exp(),
    "log": lambda net, scores, mask: (scores + mask.float().log()).softmax(-1),
    "log of truth": lambda net, scores, mask: (scores + (mask > 0.5).float().log()).softmax(-1),
    "constant": lambda net, scores, mask: ((scores + torch.triu(torch.full((4, 4), -1e9), 1)) / 2.8).softmax(-1),
}


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("weights", IDIOMS.values(), ids=list(IDIOMS))
def test_masked_scores_keep_their_steps(weights: Callable[[Scores, _T, _T], _T], padded: bool) -> None:
    torch.manual_seed(0)
    model = Scores(weights).eval()
    x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1, 0 if padded else 1]])
    compiled = hqc.compile(model, (x, mask), march="bayes", calibration_data=[(x, mask)], effort="fast")
    with torch.no_grad():
        expected = model(x, mask).numpy()
    assert np.abs(compiled.simulate(x, mask) - expected).max() < 0.05 * np.abs(expected).max()


class Plain(nn.Module):
    def __init__(self, ending: Callable[[_T], _T]) -> None:
        super().__init__()
        self.conv, self.last, self.ending = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), ending

    def forward(self, x: _T) -> _T:
        return self.last(self.ending(self.conv(x)))  # type: ignore[no-any-return]


NO_MASKS: dict[str, Callable[[_T], _T]] = {
    "a scale": lambda x: x * 20000.0,
    "a scale and a shift": lambda x: x * 20000.0 + 5000.0,
    "two scaled": lambda x: x * 20000.0 + x.relu() * 10000.0,
    "a large bound": lambda x: torch.clamp(x, -1e9, 1e9) + 1,
}


@pytest.mark.parametrize("ending", NO_MASKS.values(), ids=list(NO_MASKS))
def test_large_numbers_are_no_masks(ending: Callable[[_T], _T]) -> None:
    report = hqc.explain(Plain(ending).eval(), (torch.randn(1, 3, 4, 4),), march="bayes")
    assert [row.name for row in report.placement.rows if row.device != "bpu"] == []


def test_the_reason_names_the_number_and_the_cure() -> None:
    report = hqc.explain(Scores(IDIOMS["times -1e4"]).eval(), (torch.randn(1, 4, 8), torch.ones(1, 4)), march="bayes")
    (reason,) = next(row.reasons for row in report.placement.rows if row.op == "add")
    assert reason.actual == "10000" and "such as -50" in reason.hint


class GivenMask(nn.Module):
    """Attention, spelled and torch's own, with a mask that is an input and is added."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.linear = way, nn.Linear(8, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: _T, mask: _T) -> _T:
        y = self.linear(x)
        if self.way == "logarithm":
            return (y @ x.transpose(1, 2) + mask.log()).softmax(-1) @ x
        if self.way == "spelled":
            return ((y @ x.transpose(1, 2) + mask) / 2.0).softmax(-1) @ x
        if self.way == "encoder":
            return self.layer(y, src_mask=mask)  # type: ignore[no-any-return]
        return nn.functional.scaled_dot_product_attention(y, x, y, attn_mask=mask)


@pytest.mark.parametrize("number", [-1e4, float("-inf")])
@pytest.mark.parametrize("way", ["spelled", "attention", "encoder", "logarithm"])
def test_a_mask_that_is_an_input_is_added_in_float(way: str, number: float) -> None:
    torch.manual_seed(0)
    model, x = GivenMask(way).eval(), torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.triu(torch.full((4, 4), number), 1)
    mask = mask.exp() if way == "logarithm" else mask
    compiled = hqc.compile(model, (x, mask), march="bayes", calibration_data=[(x, mask)], effort="fast")
    with torch.no_grad():
        expected = model(x, mask).numpy()
    assert np.abs(compiled.simulate(x, mask) - expected).max() < 0.05 * np.abs(expected).max()


def test_an_input_that_is_added_elsewhere_is_no_mask() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: _T, y: _T) -> _T:
            return self.last(torch.relu(self.conv(x) * 2.0 + y))  # type: ignore[no-any-return]

    report = hqc.explain(Sum().eval(), (torch.randn(1, 3, 4, 4), torch.randn(1, 4, 4, 4)), march="bayes")
    assert [row.name for row in report.placement.rows if row.device != "bpu"] == []
