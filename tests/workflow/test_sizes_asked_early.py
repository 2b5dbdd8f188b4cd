"""Blocks that pad their shortcut to the channels of the other branch: they ask for its size before the addition that its layer takes in."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hqc
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import get_default_calib_qconfig, get_default_qat_qconfig, prepare_calibration_fx, prepare_qat_fx


class Bottleneck(nn.Module):
    """As ENet's, with what regularizes between the layer and the question."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.between = nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), between
        self.quant, self.dequant = QuantStub(), DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        y = self.between(self.norm(self.conv(x)))
        n, channels, h, w = y.size()
        short = torch.max_pool2d(x, 2)
        short = torch.cat((short, torch.zeros(n, channels - short.size(1), h, w)), 1)
        return self.dequant(torch.relu(short + y))


BETWEEN = [nn.Identity(), nn.Dropout2d(0.2), nn.Sequential(nn.Identity(), nn.Dropout(0.1))]


@pytest.mark.parametrize("between", BETWEEN, ids=["identity", "dropout", "two"])
def test_the_size_is_known_before_the_layer_is_called(between: nn.Module) -> None:
    torch.manual_seed(0)
    set_march("bayes")
    model, x = Bottleneck(between).eval(), torch.rand(2, 3, 8, 8)
    expected = model(x).detach()
    compiled = hqc.compile(model, (x,), march="bayes", calibration_data=[(x,)])
    assert (torch.as_tensor(compiled.simulate(x)) - expected).abs().max() < 0.05 * expected.abs().max()
    calibrated = prepare_calibration_fx(model, {"": get_default_calib_qconfig()}, hybrid=True, example_inputs=x).eval()
    assert torch.allclose(calibrated(x), expected, atol=1e-5)
    trained = prepare_qat_fx(calibrated, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=x).eval()
    assert (trained(x) - expected).abs().max() < 0.05 * expected.abs().max()
