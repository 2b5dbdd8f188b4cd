"""What stands behind a convolution whose weight the model computes is folded in the deployed graph exactly as in the plan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hqc

BEHIND = {
    "a product, of weights that are all zero": (0.0, lambda y, c: y * 0.2),
    "a sum per channel": (0.3, lambda y, c: y + c),
    "a product and a sum": (0.3, lambda y, c: y * 0.3 + c),
    "a difference": (0.3, lambda y, c: 1 - y),
    "a sum and an activation": (0.3, lambda y, c: F.relu(y + 0.3)),
    "nothing": (0.3, lambda y, c: y),
}


class Standardized(nn.Conv2d):
    """A convolution with weight standardization and a gain, as normalizer-free networks have."""

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (deviation + 1e-5) * self.gain, self.bias, padding=self.padding)


class Block(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        gain, self.behind = BEHIND[what]
        self.conv, self.shortcut = Standardized(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.conv.gain = nn.Parameter(torch.full((6, 1, 1, 1), gain))
        self.register_buffer("c", torch.rand(1, 6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.behind(self.conv(x), self.c) + self.shortcut(x))


@pytest.mark.parametrize("march", ["bernoulli", "bernoulli2", "bayes"])
@pytest.mark.parametrize("what", BEHIND)
def test_it_is_folded_when_deployed_as_when_planned(what: str, march: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3), Block(what), Block(what), nn.Conv2d(6, 2, 1)).eval()
    x = torch.randn(1, 3, 12, 12)
    compiled = hqc.compile(network, x, march=march, calibration_data=[x])
    simulated, expected = np.asarray(compiled.simulate(x)), np.asarray(compiled.fake_quant(x))
    cosine = simulated.ravel() @ expected.ravel() / (np.linalg.norm(simulated) * np.linalg.norm(expected))
    assert cosine > 0.995
