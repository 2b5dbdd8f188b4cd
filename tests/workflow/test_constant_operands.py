"""Operations whose first operand is a constant and whose others are data; and modules that hand on several tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hqc

OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "masked_fill": lambda ones, y: ones.masked_fill(y > 0, -1.0),
    "masked_fill_": lambda ones, y: ones.masked_fill_(y > 0, -1.0).repeat_interleave(2, 0),
    "where": lambda ones, y: ones.where(y > 0, y),
    "gather": lambda ones, y: ones.cumsum(1).gather(1, (y > 0).long()) + y,
    "take_along_dim": lambda ones, y: torch.take_along_dim(ones.cumsum(1), (y > 0).long(), 1) + y,
    "scatter": lambda ones, y: ones.scatter(1, (y > 0).long(), y),
    "index_select": lambda ones, y: ones.cumsum(1).index_select(1, (y[0, :, 0, 0] > 0).long()) + y,
    "index_put": lambda ones, y: ones.index_put((torch.tensor([0]),), y),
    "matmul": lambda ones, y: ones.matmul(y),
    "conv2d": lambda ones, y: F.conv2d(ones, y[:, :, :3, :3]),
    "linear": lambda ones, y: F.linear(ones, y[0, 0]),
    "embedding": lambda ones, y: F.embedding(ones.long()[0, 0, 0], y[0, 0]),
    "prelu": lambda ones, y: F.prelu(-ones, y.mean((0, 2, 3))),
    "layer_norm": lambda ones, y: F.layer_norm(ones.cumsum(-1), (8,), y[0, 0, 0], y[0, 0, 1]),
    "grid_sample": lambda ones, y: F.grid_sample(ones, y[:, :2].permute(0, 2, 3, 1), align_corners=False),
    "maximum": lambda ones, y: ones.maximum(y),
    "lerp": lambda ones, y: ones.lerp(y, 0.3),
    "addmm": lambda ones, y: torch.addmm(ones[0, 0], y[0, 0], y[0, 1]),
    "attention": lambda ones, y: F.scaled_dot_product_attention(ones, y, y),
    "interpolate": lambda ones, y: F.interpolate(ones.cumsum(-1), scale_factor=2) * y.mean(),
}


class Network(nn.Module):
    def __init__(self, operation: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.operation = nn.Conv2d(3, 4, 3, padding=1), operation

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.operation(torch.ones_like(y), y)


@pytest.mark.parametrize("name", OPERATIONS)
def test_lowered_as_with_data(name: str) -> None:
    model, x = Network(OPERATIONS[name]).eval(), torch.randn(1, 3, 8, 8)
    graph = hqc.lower(model, (x,))
    expected = model(x).detach()
    assert tuple(graph.outputs[0].shape or ()) == tuple(expected.shape)
    got = hqc.compile(model, (x,), march="bayes", hybrid_dict={"cpu": {"op": ["conv2d"]}}, calibration_data=[(x,)]).simulate(x)
    assert torch.nn.functional.cosine_similarity(torch.as_tensor(got).flatten().double(), expected.flatten().double(), 0) > 0.99


class Pathways(nn.Module):
    """Two pathways, which every stage takes and gives as a list; the last one has nothing to fuse."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.slow, self.fast, self.fuse = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        slow, fast = self.fuse([self.slow(x), self.fast(x)])
        return slow + self.fuse({"fast": fast})["fast"]


def test_identity_of_several_tensors() -> None:
    model, x = Pathways().eval(), torch.randn(1, 3, 8, 8)
    expected = model(x)
    got = hqc.compile(model, (x,), march="bayes", calibration_data=[(x,)]).simulate(x)
    assert (torch.as_tensor(got) - expected).abs().max() < 0.05 * expected.abs().max()
