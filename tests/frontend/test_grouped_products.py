"""Grouped products are traced as their formula: a mixture of experts whose rows are sorted by expert goes the whole way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hqc
from hqc.frontend.fx import trace

pytestmark = pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="newer than this torch")


class Experts(nn.Module):
    """Every token goes to its two best experts; an expert may get none."""

    def __init__(self, experts: int = 5, width: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.router = nn.Linear(width, experts)
        self.weights = nn.Parameter(torch.randn(experts, width, width, generator=generator) / width**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gains, chosen = self.router(x).softmax(-1).topk(2)
        sorted_experts, order = torch.sort(chosen.reshape(-1))
        experts = self.weights.shape[0]
        counts = torch.histc(sorted_experts.float(), bins=experts, min=0, max=experts - 1)
        ends = torch.cumsum(counts, 0, dtype=torch.int32)
        rows = F.grouped_mm(x[order // 2], self.weights, offs=ends) * gains.reshape(-1)[order][:, None]
        return rows[torch.argsort(order)].reshape(x.shape[0], 2, -1).sum(1)


def test_a_mixture_of_experts_goes_the_whole_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Experts().eval(), torch.randn(12, 8)
    torch.testing.assert_close(trace(model, x)(x), model(x))
    compiled = hqc.compile(model, x, march="bayes", calibration_data=[x])
    assert F.cosine_similarity(torch.as_tensor(compiled.simulate(x)).flatten(), model(x).flatten(), 0) > 0.99
    assert compiled.export(tmp_path / "experts.onnx").executed


@pytest.mark.parametrize("ends", [[3, 3, 6], [0, 0, 0], [1, 2, 3], [6, 6, 6]])
def test_every_row_takes_the_matrix_of_its_group(ends: list[int]) -> None:
    matrices = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(1))

    class Grouped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.grouped_mm(x, matrices, offs=torch.tensor(ends, dtype=torch.int32))

    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    got = trace(Grouped(), x)(x)
    torch.testing.assert_close(got[: ends[-1]], Grouped()(x)[: ends[-1]])
    assert not got[ends[-1] :].any()


def test_stacks_of_equal_sizes_are_a_plain_product() -> None:
    class Stacked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.grouped_mm(x, x.transpose(1, 2) * 2)

    x = torch.randn(2, 4, 8)
    torch.testing.assert_close(trace(Stacked(), x)(x), 2 * x @ x.transpose(1, 2))
