"""A size that `forward` reads from a tensor stays a size when a boundary is placed on that tensor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hqc


class AsksForSizes(nn.Module):
    """The convolution runs on the BPU, the reshape to five dimensions does not on bernoulli2; both need its result."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.how == "unpack":
            n, _, h, w = y.shape
        elif self.how == "size":
            n, h, w = y.size(0), y.size(2), y.size(3)
        else:
            n, h, w = y.shape[0], y.shape[2] * 1, y.shape[-1]
        return torch.softmax(y.reshape(n, 2, 4, h, w), dim=2)


@pytest.mark.parametrize("how", ["unpack", "size", "computed"])
def test_sizes_of_a_dequantized_tensor_are_not_replaced_by_the_tensor(how: str) -> None:
    torch.manual_seed(0)
    model, x = AsksForSizes(how).eval(), torch.rand(1, 3, 8, 8)
    compiled = hqc.compile(model, x, march="bernoulli2", calibration_data=[x])
    assert compiled.placement.device_of("reshape") == "cpu"
    with torch.no_grad():
        expected = model(x).numpy()
    assert compiled.fake_quant(x).shape == expected.shape == (1, 2, 4, 8, 8)
    assert np.abs(compiled.simulate(x) - expected).max() < 0.02
