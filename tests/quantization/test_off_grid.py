"""Results between the points of their operand's grid go back onto it, rounding down as the kernels do."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hqc import arithmetic
from hqc.march import March
from hqc.march import state as march_state
from hqc.nn import QuantStub
from hqc.quantization import (
    FakeQuantize,
    FakeQuantState,
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
    set_fake_quantize,
)
from hqc.quantization.off_grid import GainPool, OffGridFakeQuantize
from hqc.utils.quant_profiler import check_deploy_device


class Pool(nn.Module):
    """A `bernoulli` average behind its operand's fake quant."""

    def __init__(
        self, pool: Callable[[torch.Tensor], torch.Tensor], window: tuple[int, int] | None, mean: bool = False
    ) -> None:
        super().__init__()
        self.pool = pool
        self.operand = FakeQuantize(rounding="floor", power_of_two=True, name="operand")
        self.result = GainPool(self.operand, window, mean=mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        quantized = self.operand(x)
        return self.result(self.pool(quantized), quantized)


def integer_pool(q: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """`(sum * g) >> 9` over windows that do not overlap, stage after stage."""
    for h, w in arithmetic.bernoulli_pool_stages(*window):
        rows, columns = q.shape[2] // h, q.shape[3] // w
        sums = q[:, :, : rows * h, : columns * w].reshape(*q.shape[:2], rows, h, columns, w).sum((3, 5))
        q = (sums * arithmetic.bernoulli_pool_gain(h * w)) >> 9
    return q


def average(window: tuple[int, int]) -> Pool:
    return Pool(functools.partial(F.avg_pool2d, kernel_size=window), window)


CASES = {
    "2x2": (average((2, 2)), (2, 2)),
    "3x3": (average((3, 3)), (3, 3)),
    "7x5": (average((7, 5)), (7, 5)),
    "14x14": (average((14, 14)), (14, 14)),
    "adaptive": (Pool(functools.partial(F.adaptive_avg_pool2d, output_size=(4, 2)), None), (7, 14)),
    "mean": (Pool(lambda x: x.mean((2, 3)), None, mean=True), (28, 28)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_bernoulli_pool_trains_on_the_kernels_integers(case: str) -> None:
    model, window = CASES[case]
    x = torch.randn(2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    y = model(x)
    q = arithmetic.quantize(x.numpy(), model.operand.scale.item(), rounding="floor")
    np.testing.assert_array_equal(y.numpy() / model.operand.scale.item(), integer_pool(q, window).reshape(y.shape))
    assert y.shape == model.pool(x).shape


def test_padded_and_strided_pools_keep_torchs_windows() -> None:
    pool = nn.AvgPool2d(3, stride=2, padding=1)
    model, x = Pool(pool, (3, 3)), torch.randn(1, 2, 9, 9)
    y, scale = model(x), model.operand.scale.item()
    q = arithmetic.quantize(x.numpy(), scale, rounding="floor").astype(np.float64)
    sums = np.rint(pool(torch.from_numpy(q)).numpy() * 9).astype(np.int64)
    np.testing.assert_array_equal(y.numpy() / scale, (sums * 56) >> 9)


def test_a_mean_over_a_power_of_two_is_left_to_its_own_fake_quant() -> None:
    model = Pool(lambda x: x.mean((2, 3), keepdim=True), None, mean=True)
    x = torch.randn(1, 2, 8, 8)
    assert torch.equal(model(x), model.operand(x).mean((2, 3), keepdim=True))


def test_resized_values_go_down_to_the_operands_grid() -> None:
    source = FakeQuantize(name="operand")
    x = source(torch.randn(1, 1, 4, 4))
    resized = F.interpolate(x, scale_factor=2, mode="bilinear")
    y = OffGridFakeQuantize(source)(resized)
    scale = source.scale.item()
    expected = arithmetic.dequantize(arithmetic.quantize_off_grid(resized.numpy(), scale), scale)
    np.testing.assert_array_equal(y.numpy(), expected)
    assert repr(OffGridFakeQuantize(source)) == "OffGridFakeQuantize(source=operand)"


def test_it_follows_its_source_and_owns_nothing() -> None:
    model = average((3, 3))
    x = torch.randn(1, 1, 6, 6)
    quantized = model(x)
    assert not any(key.startswith("result.") for key in model.state_dict())
    twin = copy.deepcopy(model)
    assert twin.result.source is twin.operand
    set_fake_quantize(model, FakeQuantState.CALIBRATION)
    assert torch.equal(model(x), F.avg_pool2d(x, 3))  # unquantized it is the float model's function, without gain
    assert torch.equal(twin(x), quantized)


def test_gradients_pass_straight_through() -> None:
    model, x = average((2, 2)), torch.rand(1, 1, 4, 4, requires_grad=True)
    model(x).sum().backward()
    assert torch.equal(x.grad, torch.full_like(x, 0.25))


# --- in prepared models ------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, tail: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.quant, self.conv, self.last = QuantStub(), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.tail = tail

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.tail(torch.relu(self.conv(self.quant(x)))))


PREPARED = {
    "resize": (March.BAYES, functools.partial(F.interpolate, scale_factor=2, mode="bilinear"), OffGridFakeQuantize),
    "pool": (March.BERNOULLI, functools.partial(F.avg_pool2d, kernel_size=3), GainPool),
    "global pool": (March.BERNOULLI, functools.partial(F.adaptive_avg_pool2d, output_size=1), GainPool),
    "pool that requantizes": (March.BAYES, functools.partial(F.avg_pool2d, kernel_size=3), None),
    "nearest": (March.BAYES, functools.partial(F.interpolate, scale_factor=2, mode="nearest"), None),
}


@pytest.mark.parametrize("case", PREPARED)
def test_prepared_models_train_on_what_the_simulator_computes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    march, tail, expected = PREPARED[case]
    monkeypatch.setattr(march_state, "_current", march)
    torch.manual_seed(0)
    x = torch.randn(2, 3, 12, 12)
    model = prepare_qat_fx(Net(tail).eval(), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=x)
    for _ in range(2):
        y = model(x)
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    rounding = [module for module in model.modules() if isinstance(module, OffGridFakeQuantize)]
    assert [type(module) for module in rounding] == ([] if expected is None else [expected])
    y = model(x).detach()
    simulated = convert_fx(model)(x)
    step = model.last.activation_post_process.scale.item()
    off = ((y - simulated).abs() / step).round()
    assert off.max() <= 1
    assert (off == 0).float().mean() > 0.9
    network = Net(tail).eval()
    calibration = prepare_calibration_fx(network, {"": get_default_calib_qconfig()}, hybrid=True, example_inputs=x).eval()
    with torch.no_grad():
        assert torch.allclose(calibration(x), network(x), atol=1e-6)  # while it calibrates, it rounds nothing
        set_fake_quantize(calibration, FakeQuantState.VALIDATION)
        validated = calibration(x)
    step = calibration.last.activation_post_process.calculate_qparams()[0].item()
    assert ((validated - convert_fx(calibration)(x)).abs() / step).round().max() <= 1
    assert not any("on_grid" in name for name in check_deploy_device(model, print_tabulate=False, out_dir=tempfile.mkdtemp()))
