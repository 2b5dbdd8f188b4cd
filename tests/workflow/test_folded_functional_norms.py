"""`F.batch_norm` behind a convolution or product whose weight no module owns: trained, the weight's grid is that of what the chip folds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.nn.qat.weights import FoldedWeightFakeQuantize
from hqc.quantization import FakeQuantState, convert_fx, get_default_qat_qconfig, prepare_qat_fx, set_fake_quantize
from hqc.workflow.deploy import deploy


def by_size(norm: nn.BatchNorm2d, y: Tensor) -> Tensor:
    n = y.size(1)  # slices of a larger layer, as wide as what comes in
    return F.batch_norm(
        y, norm.running_mean[:n], norm.running_var[:n], norm.weight[:n], norm.bias[:n], norm.training, 0.1, norm.eps
    )


def gamma_of_one(norm: nn.BatchNorm2d, y: Tensor) -> Tensor:
    return F.batch_norm(y, norm.running_mean[:8], norm.running_var[:8], 1 + norm.weight[:8], norm.bias[:8], False, 0.1, 1e-3)


def without_gamma(norm: nn.BatchNorm2d, y: Tensor) -> Tensor:
    return F.batch_norm(y, norm.running_mean[:8], norm.running_var[:8])


def twice(norm: nn.BatchNorm2d, y: Tensor) -> Tensor:
    return gamma_of_one(norm, by_size(norm, y))


def written(norm: nn.BatchNorm2d, y: Tensor) -> Tensor:
    gamma = torch.ones_like(norm.weight[:8])
    gamma[:4] = norm.weight[:4]  # cannot be computed ahead: the factor is that of prepare
    return F.batch_norm(y, norm.running_mean[:8], norm.running_var[:8], gamma, norm.bias[:8])


CALLS: dict[str, Callable[[nn.Conv2d, Tensor], Tensor]] = {
    "convolution": lambda conv, x: F.conv2d(x, conv.weight[:8, : x.size(1)], padding=1),
    "transposed": lambda conv, x: F.conv_transpose2d(x, conv.weight[: x.size(1), :8], stride=2, padding=1),
    "groups": lambda conv, x: F.conv2d(x, conv.weight[:8, :4], padding=1, groups=2),
    "transposed in groups": lambda conv, x: F.conv_transpose2d(x, conv.weight[: x.size(1), :4], stride=2, padding=1, groups=2),
}


class Network(nn.Module):
    def __init__(self, call: str, norm: Callable[[nn.BatchNorm2d, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.conv, self.norm, self.head = (
            nn.Conv2d(3, 8, 1),
            nn.Conv2d(12, 12, 3),
            nn.BatchNorm2d(12),
            nn.Conv2d(8, 2, 1),
        )
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.uniform_(self.norm.weight, 0.3, 1.5)
        nn.init.normal_(self.norm.bias)
        self.call, self.normalized = CALLS[call], norm
        self.quant, self.dequant = QuantStub(), DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        y = self.call(self.conv, F.relu(self.stem(self.quant(x))))
        return self.dequant(self.head(F.relu(self.normalized(self.norm, y))))


def trained(network: nn.Module, march: str, x: Tensor, rate: float) -> nn.Module:
    set_march(march)
    model = prepare_qat_fx(network.eval(), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(x,)).train()
    optimizer = torch.optim.SGD(model.parameters(), rate)
    for _ in range(3):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
    model.eval()(x)
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    return model


@pytest.mark.parametrize("norm", [by_size, gamma_of_one, without_gamma, twice, written])
@pytest.mark.parametrize(
    ("call", "march"), [("convolution", "bernoulli"), ("convolution", "bernoulli2"), *((call, "bayes") for call in CALLS)]
)
def test_the_chip_has_the_weights_that_were_trained(
    call: str, norm: Callable[[nn.BatchNorm2d, Tensor], Tensor], march: str
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    model = trained(Network(call, norm), march, x, 0.0 if norm is written else 0.02)
    (fake_quant,) = [module for module in model.modules() if isinstance(module, FoldedWeightFakeQuantize)]
    scale = fake_quant.weight_fake_quant.calculate_qparams()[0].numpy()
    weights = deploy(model, integer=False).scaled.parameters.values()
    assert any(value.quant is not None and np.array_equal(value.quant.scale, scale) for value in weights)
    with torch.no_grad():
        expected, got = model(x), convert_fx(model)(x)
    steps = 8 if march == "bernoulli" else 2  # its biases are int8, and that of a functional norm is trained in float
    assert (expected - got).abs().max() <= steps * model.head.activation_post_process.calculate_qparams()[0]
