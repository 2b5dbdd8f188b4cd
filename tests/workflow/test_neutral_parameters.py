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


class Computed(Head):
    """The factor and the shift are computed of parameters, in several ways that all begin as 1 and 0."""

    def __init__(self, compute) -> None:
        super().__init__(torch.ones(1), torch.zeros(1))
        self.norm, self.compute = nn.BatchNorm2d(4), compute

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.first(self.quant(x))))
        return self.dequant(torch.relu(self.compute(self, self.second(self.compute(self, y)))))


COMPUTED = {
    "mean of a norm's weight": lambda net, y: y * net.norm.weight.mean() + net.norm.bias.sum(),
    "exponential": lambda net, y: y * net.behind.shift.exp(),
    "entry": lambda net, y: y * net.norm.weight[0] - net.norm.bias[1],
    "attribute": lambda net, y: y * net.behind.factor.data + net.behind.shift.data,
    "number": lambda net, y: y * net.behind.factor.item() + net.behind.shift.item(),
    "converted": lambda net, y: y * net.behind.factor.double().float() + net.behind.shift.to(y.dtype),
    "function": lambda net, y: torch.mul(y, torch.clamp(net.behind.factor, max=1.5)).add(net.behind.shift, alpha=2),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("way", COMPUTED)
def test_what_is_computed_of_parameters_trains_and_converts(way, frozen):
    """Frozen ones too: backbones are thawed after the first epochs."""
    torch.manual_seed(0)
    set_march("bayes")
    x = torch.rand(2, 3, 4, 4)
    network = Computed(COMPUTED[way]).eval().requires_grad_(not frozen)
    model = prepare_qat_fx(network, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=x)
    model.train().requires_grad_(True)
    with torch.no_grad():  # as training does, which may reach only some of them
        for parameter in model.parameters():
            parameter += 0.25 * (parameter.ndim == 1)
    model(x)
    model.eval()
    expected = model(x).detach()
    found = convert_fx(model)(x).detach()
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()


class Buffered(Head):
    """The factor and the shift are buffers, which a checkpoint of the prepared model, or the user's schedule, changes."""

    def __init__(self) -> None:
        super().__init__(torch.ones(1), torch.zeros(1))
        self.register_buffer("gain", torch.ones(1))
        self.register_buffer("offset", torch.zeros(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(self.quant(x))) * self.gain
        return self.dequant(torch.relu(self.second(y) + self.offset))


def test_buffers_of_one_and_zero_may_change_behind_prepare():
    torch.manual_seed(0)
    set_march("bayes")
    x = torch.rand(2, 3, 4, 4)
    network = Buffered().eval()
    model = prepare_qat_fx(network, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=x)
    state = {**model.state_dict(), "gain": torch.tensor([1.5]), "offset": torch.full((4, 1, 1), 0.25)}
    model.load_state_dict(state)
    model.train()(x)
    model.eval()
    network.gain.fill_(1.5)
    network.offset.fill_(0.25)
    real, expected = network(x).detach(), model(x).detach()
    assert (expected - real).abs().max() < 0.05 * real.abs().max()
    assert (convert_fx(model)(x).detach() - expected).abs().max() < 0.1 * expected.abs().max()
