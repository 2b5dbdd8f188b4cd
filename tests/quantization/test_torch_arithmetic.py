"""Training computes what is deployed: torch's formulas equal those of hqc.arithmetic, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hqc import arithmetic
from hqc.quantization import torch_arithmetic

FLOATS = st.floats(-1e6, 1e6, width=32)
ARRAYS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=5), elements=FLOATS)
SCALES = st.floats(2.0**-20, 64.0, width=32)


def ties_and_ends(scale: float, bits: int) -> np.ndarray:
    """Values at and beside every tie and both ends of the grid."""
    low, high = arithmetic.bounds(bits)
    steps = np.concatenate([np.arange(-6, 6), [low - 1, low, high, high + 1]]).astype(np.float32)
    values = ((steps[:, None] + np.float32([0, 0.5])) * np.float32(scale)).ravel().astype(np.float32)
    return np.concatenate([values, np.nextafter(values, np.float32(np.inf)), np.nextafter(values, np.float32(-np.inf))])


@pytest.mark.parametrize("rounding", arithmetic.ROUNDINGS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("scale", [0.25, 0.1, 1 / 3, 7.7e-5])
def test_fake_quant_is_dequantize_of_quantize_at_ties(rounding: str, bits: int, scale: float) -> None:
    x = ties_and_ends(scale, bits)
    expected = arithmetic.dequantize(arithmetic.quantize(x, np.float32(scale), bits, rounding), np.float32(scale))
    actual = torch_arithmetic.fake_quantize(torch.from_numpy(x), torch.tensor([scale]), bits, rounding)
    np.testing.assert_array_equal(actual.numpy(), expected)


@settings(max_examples=60, deadline=None)
@given(
    x=ARRAYS, scale=SCALES, rounding=st.sampled_from(arithmetic.ROUNDINGS), bits=st.sampled_from([8, 16]), grad=st.booleans()
)
def test_fake_quant_per_tensor_equals_numpy(x: np.ndarray, scale: float, rounding: str, bits: int, grad: bool) -> None:
    expected = arithmetic.dequantize(arithmetic.quantize(x, scale, bits, rounding), scale)
    values = torch.from_numpy(x).requires_grad_(grad)  # both ways through the code: with and without a gradient
    actual = torch_arithmetic.fake_quantize(values, torch.tensor([scale]), bits, rounding)
    np.testing.assert_array_equal(actual.detach().numpy(), expected)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), x=ARRAYS, rounding=st.sampled_from(arithmetic.ROUNDINGS), grad=st.booleans())
def test_fake_quant_per_channel_equals_numpy(data: st.DataObject, x: np.ndarray, rounding: str, grad: bool) -> None:
    axis = data.draw(st.integers(0, x.ndim - 1))
    scale = data.draw(hnp.arrays(np.float32, x.shape[axis], elements=SCALES))
    expected = arithmetic.dequantize(arithmetic.quantize(x, scale, 8, rounding, axis), scale, axis)
    values = torch.from_numpy(x).requires_grad_(grad)
    actual = torch_arithmetic.fake_quantize(values, torch.from_numpy(scale), 8, rounding, axis)
    np.testing.assert_array_equal(actual.detach().numpy(), expected)


@settings(max_examples=200, deadline=None)
@given(low=FLOATS, high=FLOATS, bits=st.sampled_from([8, 16]))
def test_scale_from_range_equals_numpy(low: float, high: float, bits: int) -> None:
    expected = arithmetic.scale_from_range(np.float32(low), np.float32(high), bits)
    actual = torch_arithmetic.scale_from_range(torch.tensor([low]), torch.tensor([high]), bits)
    assert actual.numpy().tobytes() == expected.reshape(1).tobytes()


def test_weight_scale_equals_numpy_with_a_zero_channel() -> None:
    low, high = np.float32([-0.3, 0.0, -2.0]), np.float32([0.7, 0.0, 1.0])
    actual = torch_arithmetic.weight_scale(torch.from_numpy(low), torch.from_numpy(high))
    np.testing.assert_array_equal(actual.numpy(), arithmetic.weight_scale(low, high))
    assert actual[1] == actual[2]  # the all-zero channel takes the largest scale


def test_power_of_two_scale_equals_numpy_around_every_power() -> None:
    powers = np.ldexp(np.float32(1), np.arange(-20, 4)).astype(np.float32)
    scales = np.concatenate([powers, np.nextafter(powers, np.float32(0)), np.nextafter(powers, np.float32(99)), [0.3]]).astype(
        np.float32
    )
    actual = torch_arithmetic.power_of_two_scale(torch.from_numpy(scales))
    assert actual.numpy().tobytes() == arithmetic.power_of_two_scale(scales).tobytes()


def test_int8_bias_has_the_scale_of_the_deployed_bias() -> None:
    bias = np.float32([0.31, -0.02, 0.5, 0.117])
    scale = arithmetic.bernoulli_bias_scale(bias)
    expected = arithmetic.dequantize(arithmetic.quantize(bias, scale), scale)
    np.testing.assert_array_equal(torch_arithmetic.fake_quantize_bias(torch.from_numpy(bias)).numpy(), expected)


@settings(max_examples=60, deadline=None)
@given(x=ARRAYS, scale=SCALES, bits=st.sampled_from([8, 16]), grad=st.booleans())
def test_off_grid_fake_quant_equals_numpy(x: np.ndarray, scale: float, bits: int, grad: bool) -> None:
    expected = arithmetic.dequantize(arithmetic.quantize_off_grid(x, scale, bits), scale)
    values = torch.from_numpy(x).requires_grad_(grad)
    actual = torch_arithmetic.fake_quantize_off_grid(values, torch.tensor([scale]), bits)
    np.testing.assert_array_equal(actual.detach().numpy(), expected)


# --- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", arithmetic.ROUNDINGS)
def test_gradient_passes_inside_the_range_and_stops_outside(rounding: str) -> None:
    scale = 0.5
    x = torch.from_numpy(ties_and_ends(scale, 8)).requires_grad_()
    incoming = torch.arange(1.0, len(x) + 1)
    torch_arithmetic.fake_quantize(x, torch.tensor([scale]), 8, rounding).backward(incoming)
    ratio = (x / scale).detach()
    inside = (ratio >= -128) & (ratio < 128) if rounding == "floor" else (ratio >= -128.5) & (ratio <= 127.5)
    assert 0 < inside.sum() < len(x)
    assert torch.equal(x.grad, incoming * inside)


def test_gradient_per_channel_is_clipped_by_each_channels_own_range() -> None:
    x = torch.full((2, 3), 10.0, requires_grad=True)
    torch_arithmetic.fake_quantize(x, torch.tensor([0.01, 1.0]), axis=0).sum().backward()
    assert x.grad.tolist() == [[0.0] * 3, [1.0] * 3]


def test_scale_may_change_in_place_between_forward_and_backward() -> None:
    x, scale = torch.tensor([1.0, 300.0], requires_grad=True), torch.tensor([1.0])
    y = torch_arithmetic.fake_quantize(x, scale)
    scale.fill_(100.0)
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_computed_in_float32_and_kept(dtype: torch.dtype) -> None:
    x = torch.linspace(-3, 3, 101).to(dtype).requires_grad_()
    scale = torch.tensor([0.02])
    y = torch_arithmetic.fake_quantize(x, scale)
    y.sum().backward()
    assert y.dtype is dtype
    assert x.grad.dtype is dtype
    assert torch.equal(y, torch_arithmetic.fake_quantize(x.detach().float(), scale).to(dtype))


def test_autocast_keeps_the_grid_exact_in_float32() -> None:
    x, scale = torch.randn(64).bfloat16(), torch.tensor([0.0173])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = torch_arithmetic.fake_quantize(x, scale)
    assert y.dtype is torch.float32
    assert torch.equal(y, (y / scale).round() * scale)
