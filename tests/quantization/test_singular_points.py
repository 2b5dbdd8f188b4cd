"""Operations that are infinite, undefined or infinitely steep at a point of the grid: training computes what the BPU does there."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hqc.ir import Trait, all_ops
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import (
    FakeQuantState,
    convert_fx,
    default_qat_8bit_lsq_quant_qconfig,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)

REQUIRED = {"pow_scalar": {"exponent": -1.0}, "threshold": {"bound": 1.0, "value": 0.0}}


@pytest.mark.parametrize("op", [op for op in all_ops() if op.has(Trait.LUT)], ids=lambda op: op.name)
def test_the_trait_says_which_tables_have_such_points(op) -> None:  # type: ignore[no-untyped-def]
    """Values and slopes at the points of some grids, from within the function's domain."""
    attributes = op.complete_attributes(REQUIRED.get(op.name, {}))
    grid, near = np.arange(-128, 128) / 32.0, 1e-12
    with np.errstate(all="ignore"):
        at, before, behind = (op.function(grid + step, attributes) for step in (0.0, -near, near))
        slope = np.fmax(np.abs(at - before), np.abs(behind - at)) / near
    jumps = np.isfinite(before) & np.isfinite(behind) & (np.abs(behind - before) > 0.01)  # floor, sign, hardshrink
    steep = (slope > 1e5) & ~jumps
    assert op.has(Trait.SINGULAR) == bool((~np.isfinite(at) | steep).any()), op.name


class Net(nn.Module):
    """Half of what goes into `function` is 0."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.last(self.function(torch.relu(self.first(self.quant(x))))))


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    x = torch.sigmoid(x).clamp(min=0, max=1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "log": lambda y: torch.log(y + 1e-6),
    "log of a clamp": lambda y: torch.log(y.clamp(min=1e-8)),
    "quotient": lambda y: y / (y.sum(1, keepdim=True) + 1e-15),
    "its own": lambda y: y / (y + 1e-12),
    "reciprocal": lambda y: 1 / (y + 1e-6),
    "root": lambda y: torch.sqrt(y) + y,
    "rsqrt": lambda y: y * torch.rsqrt(y + 1e-7),
    "power": lambda y: (y + 1e-9) ** -0.5,
    "distance": lambda y: ((y - 1) ** 2 + (y - 1) ** 2).sqrt(),
    "inverse sigmoid": inverse_sigmoid,
    "behind a move": lambda y: torch.log(y.flip(1).reshape(y.shape) + 1e-6),
}


@pytest.mark.parametrize("qconfig", [get_default_qat_qconfig(), default_qat_8bit_lsq_quant_qconfig], ids=["statistics", "lsq"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_training_stays_finite_and_is_what_the_simulator_computes(name: str, qconfig: object) -> None:
    torch.manual_seed(0)
    set_march("bayes")
    x = torch.randn(2, 3, 8, 8)
    model = prepare_qat_fx(Net(FUNCTIONS[name]), {"": qconfig}, hybrid=True, example_inputs=(x,)).train()
    for _ in range(2):
        model.zero_grad()
        y = model(x)
        y.square().mean().backward()
        assert y.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.first.weight.grad.abs().sum() > 0
    if qconfig is default_qat_8bit_lsq_quant_qconfig and name == "log of a clamp":
        return  # a bound of a clamp is on the grid in the simulator only, and a log magnifies the half step between
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    wanted = model.eval()(x).detach()
    got = convert_fx(model)(x)
    # The simulator's 16-bit middle values may differ by a step here and there.
    step = (wanted.max() - wanted.min()).item() / 100
    assert ((got - wanted).abs() > 3 * step).float().mean() < 0.02


def test_the_warning_names_the_tensor_once(caplog: pytest.LogCaptureFixture) -> None:
    set_march("bayes")
    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 8)
    model = prepare_qat_fx(Net(FUNCTIONS["log"]), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(x,))
    set_fake_quantize(model, FakeQuantState.CALIBRATION)
    with caplog.at_level(logging.WARNING):
        model.eval()(x)
        assert "infinite" not in caplog.text  # in float the eps is there
        set_fake_quantize(model, FakeQuantState.QAT)
        model(x)
        model(x)
    assert caplog.text.count("log is infinite or undefined") == 1 and "hybrid_dict" in caplog.text
