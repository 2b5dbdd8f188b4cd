"""Operations that are infinite, undefined or infinitely steep at a point of the grid: training computes what the BPU does there."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hqc.errors import CalibrationError
from hqc.ir import Trait, all_ops, get_op, parse
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.passes.own_lengths import OwnLength, own_length
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


STANDARDIZED: dict[str, Callable[[Tensor], Tensor]] = {
    "normalize": lambda y: F.normalize(y, dim=1),
    "normalize of order 1": lambda y: F.normalize(y, p=1.0, dim=1),
    "a norm behind a clamp": lambda y: y / y.norm(dim=1, keepdim=True).clamp(min=1e-8),
    "normalized rows": lambda y: F.normalize(y.flatten(2).transpose(1, 2), dim=-1).transpose(1, 2).reshape(y.shape),
    "layer norm": lambda y: F.layer_norm(y.permute(0, 2, 3, 1), (8,), eps=1e-12).permute(0, 3, 1, 2),
    "group norm": lambda y: (
        F.group_norm(y.permute(0, 2, 1, 3).flatten(0, 1), 2, eps=1e-12).reshape(2, 8, 8, 8).permute(0, 2, 1, 3)
    ),
}


STANDARDIZING = {
    "layer_norm": {"normalized_ndim": 2},
    "group_norm": {"groups": 2},
    "instance_norm": {},
    "lp_normalize": {"axes": (1,)},
}


def test_every_standardization_says_what_it_divides() -> None:
    assert sorted(op.name for op in all_ops() if op.vectors is not None) == sorted(STANDARDIZING)
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 5)) * 1e-9  # far below the eps
    for name, given in STANDARDIZING.items():
        op = get_op(name)
        attributes = op.complete_attributes({**given, "eps": 1e-2})
        vectors = op.vectors(x.shape, attributes)  # type: ignore[misc]
        rows = x.reshape(vectors.shape)
        rows = rows - rows.mean(axis=vectors.axes, keepdims=True) if vectors.centred else rows
        wanted = op.compute([x], attributes)  # type: ignore[misc]
        np.testing.assert_allclose(rows.reshape(x.shape) / vectors.least, wanted, rtol=1e-6)


def _gradients(function: Callable[[Tensor], Tensor], state: FakeQuantState, march: str = "bayes") -> list[Tensor]:
    """Those of a model of which most positions give equal values in all channels that the grid holds as 0; of a float bias too."""
    torch.manual_seed(0)
    set_march(march)
    x = torch.randn(2, 3, 8, 8)
    x[:, :, :6], net = 0, Net(function)
    nn.init.constant_(net.first.bias, 1e-3)
    model = prepare_qat_fx(net, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(x,)).train()
    model(x)
    set_fake_quantize(model, state)
    model(x).square().mean().backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("name", STANDARDIZED)
def test_vectors_that_the_grid_makes_zero_or_constant_leave_training_alone(name: str) -> None:
    """One over an eps of 1e-12 or its root is the slope there: gradients of 1e10 and of 1e4."""
    gradients = _gradients(STANDARDIZED[name], FakeQuantState.QAT)
    assert all(gradient.isfinite().all() and gradient.abs().max() < 50 for gradient in gradients)
    assert gradients[0].abs().sum() > 0


SPELLED_OUT: dict[str, Callable[[Tensor], Tensor]] = {
    "a norm and an eps": lambda y: y / (y.norm(dim=1, keepdim=True) + 1e-9),
    "an eps and a norm of order 1": lambda y: y / (1e-9 + y.norm(1, dim=1).unsqueeze(1)),
    "SSD's": lambda y: torch.div(y, y.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10),
    "a mean square": lambda y: y * torch.rsqrt(y.square().mean(1, keepdim=True) + 1e-12),
    "the larger of": lambda y: y / torch.maximum(y.norm(dim=1, keepdim=True), torch.tensor(1e-9)).expand_as(y),
}


@pytest.mark.parametrize("name", SPELLED_OUT)
def test_spelled_out_lengths_on_the_cpu_leave_training_alone(name: str) -> None:
    gradients = _gradients(SPELLED_OUT[name], FakeQuantState.QAT, "bernoulli2")
    assert all(gradient.isfinite().all() and gradient.abs().max() < 50 for gradient in gradients)
    assert gradients[0].abs().sum() > 0


def test_a_divisor_that_the_grid_makes_zero_is_told_with_the_cure() -> None:
    """On bernoulli2 the quotient runs on the CPU, which gives NaN; with an eps, the divisor is float."""
    set_march("bernoulli2")
    torch.manual_seed(0)
    x, config = torch.randn(2, 3, 8, 8), {"": get_default_qat_qconfig()}
    x[:, :, :6] = 0
    net = Net(lambda y: y / torch.sqrt((y * y).sum(1, keepdim=True)))
    with pytest.raises(
        CalibrationError, match=r"truediv contains NaN.*a divisor that a grid rounds to 0: add an eps.*hybrid_dict"
    ):
        prepare_qat_fx(net, config, hybrid=True, example_inputs=(x,)).train()(x)
    net = Net(lambda y: y / torch.sqrt((y * y).sum(1, keepdim=True) + 1e-12))
    model = prepare_qat_fx(net, config, hybrid=True, example_inputs=(x,)).train()
    model(x).square().mean().backward()
    assert all(p.grad is None or (p.grad.isfinite().all() and p.grad.abs().max() < 50) for p in model.parameters())


def test_only_lengths_of_the_vector_itself_are_its_own() -> None:
    graph = parse(
        """
graph @g march=bernoulli2 stage=lowered {
  input %x: f32[1,8,4,4]
  input %z: f32[1,8,4,4]
  param @eps: f32[] = 0.25
  %n: f32[1,1,4,4] = reduce_l2(%x) {axes=[1], keepdims=true}
  %d: f32[1,1,4,4] = add(%n, @eps)
  %own: f32[1,8,4,4] = div(%x, %d)
  %other: f32[1,8,4,4] = div(%z, %d)
  %m: f32[1,8,4,4] = mul(%x, %d)
  output %own, %other, %m
}
"""
    )
    x, z = graph.inputs
    own, other, product = (value.producer for value in graph.outputs)
    assert own is not None and own_length(own, x) == OwnLength((1,), 0.25)
    assert other is not None and own_length(other, z) is None
    assert product is not None and own_length(product, x) is None


def test_the_gradient_there_is_that_of_an_eps_of_half_a_step_and_elsewhere_torch_s() -> None:
    torch.manual_seed(0)
    set_march("bayes")
    x = torch.randn(1, 8, 4, 4)

    class Normalized(nn.Module):
        def __init__(self, eps: float) -> None:
            super().__init__()
            self.quant, self.dequant, self.eps = QuantStub(), DeQuantStub(), eps

        def forward(self, x: Tensor) -> Tensor:
            x = self.quant(x)
            return F.normalize(x, dim=1, eps=self.eps) + self.dequant(x)  # another reader keeps its gradient

    x[..., 0] = 0

    def gradient(eps: float) -> tuple[Tensor, Tensor, float]:
        model = prepare_qat_fx(Normalized(eps), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(x,)).train()
        leaf = x.clone().requires_grad_()
        weight = torch.linspace(-1, 1, 8).reshape(1, 8, 1, 1)
        (model(leaf) * weight).sum().backward()
        assert leaf.grad is not None
        return leaf.grad, weight.expand_as(x), model.quant.activation_post_process.scale.item()

    bounded, weight, step = gradient(1e-12)
    asked, _, _ = gradient(step)
    half, _, _ = gradient(step / 2)
    torch.testing.assert_close(bounded, half)  # no other vector of the grid is as short
    torch.testing.assert_close(asked[..., 0], (weight * (1 + 1 / step))[..., 0])


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
