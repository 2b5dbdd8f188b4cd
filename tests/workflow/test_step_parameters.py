"""Parameters of operations that are written step by step or become a layer are the user's own: what the plan made of their first numbers
follows them in training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hqc
from hqc.march import set_march
from hqc.quantization import FakeQuantState, get_default_qat_qconfig, prepare_qat_fx, set_fake_quantize


class Between(nn.Module):
    """`end - start` is `end + (-start)` in the plan; of the first numbers nobody can tell which one it is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.start = nn.Linear(6, 6), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.start.lerp(self.linear(x), 0.7)


class Divided(nn.Module):
    """`y / scale` is `y * (1 / scale)` in the plan where that is exact, as it is of the first numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(6, 6), nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return torch.addcdiv(y, y, self.scale)


@pytest.mark.parametrize("kind", [Between, Divided])
def test_a_step_reads_the_parameter_and_not_what_the_plan_made_of_it(kind):
    torch.manual_seed(0)
    set_march("bayes")
    model, x = kind(), torch.randn(4, 6)
    prepared = prepare_qat_fx(
        torch.ao.quantization.QuantWrapper(model), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(x,)
    )
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    for weights in (model, prepared.module):
        with torch.no_grad():
            next(each for name, each in weights.named_parameters() if name in ("start", "scale")).copy_(
                torch.linspace(0.3, 2.0, 6)
            )
    expected = model(x)
    assert torch.allclose(prepared.eval()(x), expected, rtol=1e-5, atol=1e-5 * float(expected.detach().abs().max()))


class Equalized(nn.Module):
    """The layers of StyleGAN's mapping network."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(8, 8)) for _ in range(2))
        self.bias, self.beta = nn.Parameter(torch.randn(8)), beta

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = torch.relu(torch.addmm(self.bias, x, weight.t(), beta=self.beta, alpha=0.25))
        return x


@pytest.mark.parametrize("march", ["bernoulli2", "bayes"])
@pytest.mark.parametrize("beta", [0, 0.5, 1])
def test_the_factors_of_a_product_with_a_sum_are_in_the_layer(march, beta):
    torch.manual_seed(0)
    model, x = Equalized(beta).eval(), torch.randn(4, 8)
    compiled = hqc.compile(model, (x,), march=march, calibration_data=[(x,)])
    expected = model(x).detach()
    assert (torch.as_tensor(compiled.simulate(x)) - expected).abs().max() < 0.1 * expected.abs().max()
