"""Divisors of divisions on the CPU are computed there too: an int8 grid makes 0 of an eps, and of small roots, lengths and deviations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import hqc
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import get_default_qat_qconfig, prepare_qat_fx

EPS = 1e-9
QUOTIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "variance": lambda y: (y - y.mean(1, keepdim=True)) / torch.sqrt(y.var(1, keepdim=True, unbiased=False) + EPS),
    "spelled-out variance": lambda y: (
        (y - y.mean(1, keepdim=True)) / ((y - y.mean(1, keepdim=True)).pow(2).mean(1, keepdim=True) + EPS).sqrt()
    ),
    "length": lambda y: y / (y * y).sum(1, keepdim=True).clamp(min=EPS).sqrt(),
    "mean square": lambda y: y * torch.rsqrt(y.square().mean(1, keepdim=True) + EPS),
    "share": lambda y: y.relu() / (y.relu().sum(1, keepdim=True) + EPS),
    "largest": lambda y: y / torch.maximum(y.abs().amax(1, keepdim=True), torch.tensor(EPS)),
    "sigmoid": lambda y: y / torch.sigmoid(4 * y - 20),
    "logarithm": lambda y: (y.relu() + EPS).log(),
    "inverse sigmoid": lambda y: (torch.sigmoid(9 * y).clamp(min=EPS) / (1 - torch.sigmoid(9 * y)).clamp(min=EPS)).log(),
    "root in shape": lambda y: y / (y.square().mean(1) + EPS).sqrt().unsqueeze(1),
}


class Network(nn.Module):
    def __init__(self, quotient: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.head, self.quotient = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 4, 1), quotient
        self.quant, self.dequant = QuantStub(), DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.head(self.quotient(self.stem(self.quant(x)))))


def with_zero_vectors() -> Tensor:
    x = torch.randn(2, 3, 8, 8)
    x[:, :, :4] *= 1e-4  # 0 on any grid that holds the rest
    return x


@pytest.mark.parametrize("march", ["bernoulli", "bernoulli2", "bayes"])
@pytest.mark.parametrize("quotient", QUOTIENTS.values(), ids=QUOTIENTS.keys())
def test_vectors_that_a_grid_makes_zero_are_trained(quotient: Callable[[Tensor], Tensor], march: str) -> None:
    torch.manual_seed(0)
    set_march(march)
    x = with_zero_vectors()
    model = prepare_qat_fx(Network(quotient).eval(), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(x,)).train()
    model(x).square().mean().backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())
    assert bool(model.eval()(x).isfinite().all())


@pytest.mark.parametrize("name", ["spelled-out variance", "length", "root in shape"])
def test_all_of_a_length_is_float_where_the_division_is(name: str) -> None:
    plan = hqc.explain(Network(QUOTIENTS[name]).eval(), with_zero_vectors(), march="bernoulli2")
    assert {row.name for row in plan.placement.rows if row.device == "bpu"} <= {"stem", "head", "mul", "sub", "sub_1"}


def test_on_the_bpu_it_stays_where_the_division_is_there() -> None:
    plan = hqc.explain(Network(QUOTIENTS["variance"]).eval(), with_zero_vectors(), march="bayes")
    assert {row.device for row in plan.placement.rows} == {"bpu"}
