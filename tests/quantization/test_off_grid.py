"""Results between the points of their operand's grid go back onto it, rounding down as the kernels do."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hqc import arithmetic
from hqc.quantization import FakeQuantize, FakeQuantState, set_fake_quantize
from hqc.quantization.off_grid import OffGridFakeQuantize


class Pool(nn.Module):
    """A `bernoulli` average pool behind its operand's fake quant."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.operand = FakeQuantize(rounding="floor", power_of_two=True, name="operand")
        gain = size * size * arithmetic.bernoulli_pool_gain(size * size) / 512.0
        self.result = OffGridFakeQuantize(self.operand, gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.result(F.avg_pool2d(self.operand(x), self.size))


@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_a_bernoulli_pool_trains_on_the_kernels_integers(size: int) -> None:
    model, x = Pool(size), torch.randn(2, 3, 35, 35)
    y = model(x)
    scale = model.operand.scale.item()
    q = arithmetic.quantize(x.numpy(), scale, rounding="floor")
    edge = 35 // size * size
    windows = q[:, :, :edge, :edge].reshape(2, 3, edge // size, size, edge // size, size)
    expected = (windows.sum((3, 5)) * arithmetic.bernoulli_pool_gain(size * size)) >> 9
    np.testing.assert_array_equal(y.numpy() / scale, expected)


def test_it_follows_its_source_and_owns_nothing() -> None:
    model = Pool(2)
    x = torch.randn(1, 1, 4, 4)
    model(x)
    assert not any(key.startswith("result.") for key in model.state_dict())
    twin = copy.deepcopy(model)
    assert twin.result.source is twin.operand
    set_fake_quantize(model, FakeQuantState.CALIBRATION)
    torch.testing.assert_close(model(x), F.avg_pool2d(x, 2))
    assert repr(Pool(3).result) == "OffGridFakeQuantize(source=operand, gain=0.984375)"
    assert repr(model.result) == "OffGridFakeQuantize(source=operand)"


def test_gradients_pass_straight_through() -> None:
    model, x = Pool(2), torch.rand(1, 1, 4, 4, requires_grad=True)
    model(x).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 0.25))


def test_the_value_that_the_pool_leaves_unquantized_is_its_calibration_value() -> None:
    model, x = Pool(3), torch.randn(1, 1, 6, 6)
    model(x)
    set_fake_quantize(model, FakeQuantState.CALIBRATION)
    assert torch.equal(model(x), F.avg_pool2d(x, 3))  # no gain: the float model's function
