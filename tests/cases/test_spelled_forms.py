"""Networks with parts spelled by hand go the whole way: simulator, fake-quant model, files, and training."""

from __future__ import annotations

import pytest
import torch
from case_kit import check_ptq
from torch import Tensor, nn
from torch.nn import functional as F


class Spelled(nn.Module):
    """Attention over channels and places by means and maxima, bounds, exponentials and roots, each written by hand."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.gate, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y = y / (1 + torch.exp(-y))
        y = y * torch.sigmoid(self.gate(y.mean(3).mean(2).view(-1, 8, 1, 1)))
        y = y * torch.sigmoid(y.mean(1).unsqueeze(1))
        y = torch.maximum(y, y * 0.1) + y.flatten(2).max(2)[0][..., None, None] * 0.1
        y = torch.where(y > 0, y, torch.zeros(())) / (1 + F.threshold(y, 0.0, 0.0))
        return self.last(torch.minimum(y, torch.tensor(2.0)) + (y.abs() + 1) ** -0.5)


@pytest.mark.parametrize("march", ["bernoulli2", "bayes"])
def test_spelled_parts_go_the_whole_way(march: str) -> None:
    compiled = check_ptq(
        Spelled(), [torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1], march, ("integer",)
    )
    ops = {node.op.name for node in compiled.graph.nodes}
    assert {"silu", "leaky_relu", "relu", "clamp", "rsqrt"} <= ops and not {
        "exp",
        "where",
        "maximum",
        "minimum",
        "pow_scalar",
    } & ops
