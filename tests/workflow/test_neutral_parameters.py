"""Parameters that begin as numbers which change nothing (a scale of 1, a shift of 0) are part of the plan: training changes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import convert_fx, get_default_qat_qconfig, prepare_qat_fx


class Scale(nn.Module):
    """As heads of FCOS and its kin have them."""

    def __init__(self, factor: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.factor, self.shift = nn.Parameter(factor), nn.Parameter(shift)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.shift


class Head(nn.Module):
    def __init__(self, factor: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.behind, self.between = Scale(factor, shift), Scale(factor.clone(), shift.clone())

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(self.quant(x)))
        return self.dequant(torch.relu(self.behind(self.second(self.between(y)))))


@pytest.mark.parametrize("march", ["bernoulli2", "bayes"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_a_scale_of_one_and_a_shift_of_zero_train_and_convert(march, shape):
    torch.manual_seed(0)
    set_march(march)
    x = torch.rand(2, 3, 4, 4)
    model = prepare_qat_fx(
        Head(torch.ones(shape), torch.zeros(shape)), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=x
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()(x).square().mean().backward()
    optimizer.step()
    model.eval()
    assert float(model.behind.factor.detach().reshape(())) != 1.0
    expected = model(x).detach()
    found = convert_fx(model)(x).detach()
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()
