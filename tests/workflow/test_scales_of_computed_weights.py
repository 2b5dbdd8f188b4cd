"""A weight that the model computes and a batch norm is folded into has on the chip the integers that its fake quant gives it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hqc
from hqc import arithmetic
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.nn.qat.weights import FoldedWeightFakeQuantize
from hqc.quantization import get_default_qat_qconfig, prepare_qat_fx
from hqc.workflow.deploy import deploy

WEIGHTS = {
    "one magnitude": lambda weight: (
        0.04 * weight.sign()
    ),  # a binarized layer: with the range's scale all lie between two points
    "standardized": lambda weight: (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True),
    "as it is": lambda weight: weight,
}


class Network(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.computed = WEIGHTS[what]
        self.stem, self.conv, self.norm, self.head = (
            nn.Conv2d(3, 24, 3, padding=1),
            nn.Conv2d(24, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.Conv2d(24, 2, 1),
        )
        nn.init.uniform_(self.norm.running_var, 0.7, 1.3)
        nn.init.uniform_(self.norm.weight, -1.2, 1.2)
        self.quant, self.dequant = QuantStub(), DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.stem(self.quant(x)))
        return self.dequant(self.head(F.relu(self.norm(F.conv2d(y, self.computed(self.conv.weight), padding=1)))))


def prepared(what: str, form: str, march: str) -> nn.Module:
    torch.manual_seed(0)
    network, x = Network(what).eval(), torch.randn(1, 3, 8, 8)
    if form == "ptq":
        return hqc.compile(network, x, march=march, calibration_data=[x]).prepared
    set_march(march)
    model = prepare_qat_fx(network, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(x,))
    model.train()
    model(x).square().mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    model.eval()(x)
    return model


@pytest.mark.parametrize("march", ["bernoulli2", "bayes"])
@pytest.mark.parametrize("form", ["ptq", "qat"])
@pytest.mark.parametrize("what", WEIGHTS)
def test_the_chip_has_the_integers_of_the_fake_quant(what: str, form: str, march: str) -> None:
    model = prepared(what, form, march)
    (fake_quant,) = [module for module in model.modules() if isinstance(module, FoldedWeightFakeQuantize)]
    graph = deploy(model, integer=False).scaled
    (weight,) = [value for value in graph.parameters.values() if value.shape == (24, 24, 3, 3)]
    expected_scale = fake_quant.weight_fake_quant.calculate_qparams()[0].flatten().numpy()
    assert np.array_equal(np.atleast_1d(weight.quant.scale), expected_scale)

    with torch.no_grad():
        statistics = (model.norm.running_var, model.norm.weight) if form == "qat" else ()
        folded = fake_quant.folded(WEIGHTS[what](model.conv.weight), *statistics)
        on_grid = fake_quant.weight_fake_quant(folded).numpy() / expected_scale.reshape(-1, 1, 1, 1)
    integers = arithmetic.quantize_weight(weight.array, weight.quant.scale, weight.quant.axis)
    assert np.array_equal(integers, on_grid.round())
