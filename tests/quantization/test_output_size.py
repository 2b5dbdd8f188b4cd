"""Transposed convolutions that are asked for a size: in training, at any size of the input, and deployed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import hqc
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import (
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
)


class Decoder(nn.Module):
    """Back to the size of the input, as U-Nets do; the second layer by position, with an addition behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.up = nn.ConvTranspose2d(8, 6, 3, 2, 1)
        self.norm = nn.BatchNorm2d(6)
        self.last = nn.ConvTranspose2d(6, 3, 3, 1, 1)
        self.quant, self.dequant = QuantStub(), DeQuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.quant(x)
        y = torch.relu(self.norm(self.up(torch.relu(self.down(x)), output_size=x.size()[2:])))
        return self.dequant(self.last(y, x.shape[-2:]) + x)


@pytest.mark.parametrize("shapes", [True, False])
def test_training_keeps_the_size_that_is_asked_for(shapes: bool) -> None:
    torch.manual_seed(0)
    set_march("bayes")
    model, x = Decoder().eval(), torch.rand(2, 3, 12, 9)
    known = {"example_inputs": (x,)} if shapes else {}
    calibrated = prepare_calibration_fx(model, {"": get_default_calib_qconfig()}, hybrid=True, **known)
    np.testing.assert_allclose(calibrated(x).detach(), model(x).detach(), atol=0.05)
    trained = prepare_qat_fx(calibrated, {"": get_default_qat_qconfig()}, hybrid=True, **known).eval()
    for size in ((2, 3, 12, 9), (1, 3, 11, 10)):
        inputs = torch.rand(size)
        expected = model(inputs)
        assert trained(inputs).shape == expected.shape
        assert (trained(inputs) - expected).abs().max() < 0.1 * expected.abs().max()
    assert convert_fx(trained)(x).shape == x.shape


def test_compiled_model_has_the_size_that_is_asked_for() -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 12, 9)
    compiled = hqc.compile(Decoder().eval(), (x,), march="bayes", calibration_data=[x])
    assert np.shape(compiled.simulate(torch.rand(3, 3, 12, 9))) == (3, 3, 12, 9)
