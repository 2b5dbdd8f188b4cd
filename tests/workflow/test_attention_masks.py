"""A mask of huge numbers runs on the CPU: at a scale that holds it, the scores it is added to would round to zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hqc

X = torch.randn(1, 8, 16, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """One causal head; masked scores get `value` added."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.register_buffer("mask", torch.triu(torch.ones(8, 8), 1) * value)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(1, 2) * 2 + self.mask
        return scores.softmax(-1) @ self.v(x)


@pytest.mark.parametrize("march", ["bayes", "bayes-e"])
@pytest.mark.parametrize("value", [-1e4, -1e9, torch.finfo(torch.float32).min])
def test_scores_survive_a_mask_of_huge_numbers(value: float, march: str) -> None:
    network = Attention(value).eval()
    compiled = hqc.compile(network, X, march=march, calibration_data=[X])
    (row,) = [row for row in compiled.placement.rows if row.op == "add"]
    assert row.device == "cpu" and "leaves a scale" in str(row.reasons[0])
    simulated, expected = np.asarray(compiled.simulate(X)), network(X).detach().numpy()
    assert (simulated * expected).sum() > 0.99 * np.linalg.norm(simulated) * np.linalg.norm(expected)


def test_a_mask_near_the_range_of_the_scores_stays_on_the_bpu() -> None:
    rows = hqc.explain(Attention(-50.0), X, march="bayes").placement.rows
    assert [row.device for row in rows if row.op == "add"] == ["bpu"]
