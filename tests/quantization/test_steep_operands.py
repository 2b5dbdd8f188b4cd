"""Standardizations on the CPU of what it has made of grid values: their slope at vectors without length is not that of a tiny eps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hqc.ir import parse
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.nn.qat.steep import SteepDeQuantStub, SteepOperand
from hqc.passes.own_lengths import OwnLength, own_length
from hqc.quantization import convert_fx, get_default_lsq_qconfig, get_default_qat_qconfig, prepare_qat_fx

EPS = 1e-12
STANDARDIZED: dict[str, Callable[[Network, Tensor], Tensor]] = {
    "permuted": lambda n, y: n.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "tokens": lambda n, y: n.norm(y.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, (8, 8)),
    "sum": lambda n, y: n.norm((y + y.flip(1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "scaled": lambda n, y: n.norm(y.permute(0, 2, 3, 1) * n.gain).permute(0, 3, 1, 2),
    "deviation": lambda n, y: (y - y.mean(1, keepdim=True)) / (y.std(1, keepdim=True) + EPS),
    "variance": lambda n, y: (y - y.mean(1, keepdim=True)) / torch.sqrt(y.var(1, keepdim=True, unbiased=False) + EPS),
    "only the deviation": lambda n, y: y / (y.std(1, keepdim=True) + EPS),
    "length": lambda n, y: n.over_length(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "normalize": lambda n, y: F.normalize(y.permute(0, 2, 3, 1), dim=-1).permute(0, 3, 1, 2),
}


class Network(nn.Module):
    def __init__(self, standardized: Callable[[Network, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.head, self.norm = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.LayerNorm(8, eps=EPS)
        self.gain = nn.Parameter(torch.full((8,), 0.1))
        nn.init.zeros_(self.stem.bias)
        self.standardized = standardized
        self.quant, self.dequant = QuantStub(), DeQuantStub()

    def over_length(self, y: Tensor) -> Tensor:
        return y / (y.norm(dim=-1, keepdim=True) + EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.head(self.standardized(self, self.stem(self.quant(x)))))


@pytest.mark.parametrize("qconfig", [get_default_qat_qconfig(), get_default_lsq_qconfig()], ids=["statistics", "learned"])
@pytest.mark.parametrize("standardized", STANDARDIZED.values(), ids=STANDARDIZED.keys())
def test_gradients_are_those_of_half_a_step(standardized: Callable[[Network, Tensor], Tensor], qconfig: object) -> None:
    torch.manual_seed(0)
    set_march("bernoulli2")
    x = torch.randn(2, 3, 8, 8)
    x[:, :, :4] *= 1e-4  # 0 on any grid that holds the rest
    model = prepare_qat_fx(Network(standardized).eval(), {"": qconfig}, hybrid=True, example_inputs=(x,)).train()
    model(x).square().mean().backward()
    assert any(isinstance(module, (SteepOperand, SteepDeQuantStub)) for module in model.modules())
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(float(gradient.abs().max()) < 100 for gradient in gradients)
    model.eval()(x)
    with torch.no_grad():
        expected, got = model(x), convert_fx(model)(x)
    assert torch.cosine_similarity(expected.flatten(), got.flatten(), 0) > 0.99


def test_the_deviation_is_that_of_the_vectors_that_are_divided() -> None:
    graph = parse(
        """
graph @g march=bernoulli2 stage=lowered {
  input %x: f32[1,8,4,4]
  input %z: f32[1,8,4,4]
  param @eps: f32[] = 0.25
  param @unbiased: f32[] = 1.125
  %m: f32[1,1,4,4] = mean(%x) {axes=[1], keepdims=true}
  %n: f32[1,1,4,4] = mean(%z) {axes=[1], keepdims=true}
  %c: f32[1,8,4,4] = sub(%x, %m)
  %c2: f32[1,8,4,4] = sub(%x, %m)
  %e: f32[1,8,4,4] = sub(%z, %n)
  %q: f32[1,8,4,4] = mul(%c, %c)
  %v: f32[1,1,4,4] = mean(%q) {axes=[1], keepdims=true}
  %u: f32[1,1,4,4] = mul(%v, @unbiased)
  %r: f32[1,1,4,4] = sqrt(%u)
  %d: f32[1,1,4,4] = add(%r, @eps)
  %own: f32[1,8,4,4] = div(%c2, %d)
  %whole: f32[1,8,4,4] = div(%x, %d)
  %other: f32[1,8,4,4] = div(%e, %d)
  output %own, %whole, %other
}
"""
    )
    found = [own_length(value.producer, value.producer.inputs[0]) for value in graph.outputs if value.producer is not None]
    assert found == [OwnLength((1,), 0.25), OwnLength((1,), 0.25), None]
