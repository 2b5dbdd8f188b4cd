"""The formulas of hqc/arithmetic.py as torch operations, and their gradients.

Training must compute exactly what is deployed, so every function here equals its NumPy twin bit for bit
(tests/quantization/test_torch_arithmetic.py). Two rules follow from that: the division is a division (never a multiplication
by a reciprocal), and constants that divide are tensors, because CUDA multiplies by the reciprocal of a Python number.
Nothing here waits for the device.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hqc.arithmetic import FLOAT32_EPS, OFF_GRID_MARGIN, ROUNDINGS, bounds
from hqc.quantization.exporting import exporting, warn_of_plain_operations

# --- scales ------------------------------------------------------------------------------------------------------------


def scale_from_range(minimum: Tensor, maximum: Tensor, bits: int = 8) -> Tensor:
    """float32 scale of the range, element-wise: `arithmetic.scale_from_range`."""
    # One float32 division of float32 operands rounds as float64 division followed by rounding does (53 >= 2 * 24 + 2).
    # A range on one side of zero reaches to zero: a negative reach ends at the smallest scale, as 0 does.
    reach = torch.maximum(-minimum.float(), maximum.float())
    return (reach / torch.full_like(reach, (1 << (bits - 1)) - 0.5)).clamp(min=FLOAT32_EPS)


def range_from_scale(scale: Tensor, bits: int = 8) -> tuple[Tensor, Tensor]:
    """The symmetric range -/+ 127.5 s (int8) that gives this scale."""
    reach = scale.float() * ((1 << (bits - 1)) - 0.5)
    return -reach, reach


def weight_scale(minimum: Tensor, maximum: Tensor, bits: int = 8) -> Tensor:
    """Scales per channel; an all-zero channel takes the largest: `arithmetic.weight_scale`."""
    scale = scale_from_range(minimum, maximum, bits)
    return torch.where((minimum == 0) & (maximum == 0), scale.max(), scale)


@torch.no_grad()
def scale_of_values(x: Tensor, bits: int = 8, axis: int = -1) -> Tensor:
    """Scale `[1]` of the range of `x`, or `[C]` of its slices along `axis`; an all-zero slice takes the largest."""
    rows = x.detach().float().reshape(1, -1) if axis < 0 else x.detach().float().transpose(0, axis).flatten(1)
    return weight_scale(rows.amin(1), rows.amax(1), bits)


def power_of_two_scale(scale: Tensor) -> Tensor:
    """`2^-k`, `k = clamp(floor(-log2 s), 1, 14)`: `arithmetic.power_of_two_scale`."""
    mantissa, exponent = torch.frexp(scale.float())
    k = torch.where(mantissa == 0.5, 1 - exponent, -exponent).clamp(1, 14)
    return ((127 - k.int()) << 23).view(torch.float32)  # the float's exponent field: exact on every device


# --- rounding ----------------------------------------------------------------------------------------------------------


def round_to_int(x: Tensor, rounding: str = "half_even") -> Tensor:
    """`x` rounded to whole numbers, a new tensor: `arithmetic.round_to_int`."""
    if rounding == "half_even":
        return x.round()
    if rounding == "floor":
        return x.floor()
    if rounding == "half_up":
        floor = x.floor()
        return floor.add_((x - floor).ge_(0.5))
    if rounding == "half_away":
        whole = x.trunc()
        return whole.add_((x - whole).abs_().ge_(0.5).mul_(x.sign()))
    raise ValueError(f"unknown rounding {rounding!r}; known: {', '.join(ROUNDINGS)}")


def _beside(x: float, direction: float) -> float:
    """The float32 neighbour of `x` in the given direction."""
    return float(np.nextafter(np.float32(x), np.float32(direction)))


@cache
def pass_limits(rounding: str, bits: int) -> tuple[float, float]:
    """The open interval of `x / s` where the gradient passes: saturation adds nothing to the rounding error there.

    That is [low - 0.5, high + 0.5] (for `floor` [low, high + 1)); the value that set the range, at high + 0.5, is inside.
    """
    low, high = bounds(bits)
    if rounding == "floor":
        return _beside(low, -math.inf), high + 1.0
    return _beside(low - 0.5, -math.inf), _beside(high + 0.5, math.inf)


def along(scale: Tensor, axis: int, rank: int) -> Tensor:
    """Scale `[1]` for axis -1, or `[C]` shaped so that it broadcasts along `axis` of a tensor of `rank` dimensions."""
    if axis < 0:
        return scale
    return scale.view([-1 if i == axis else 1 for i in range(rank)])


# --- fake quantization ---------------------------------------------------------------------------------------------------


def _on_grid(x: Tensor, scale: Tensor, bits: int, rounding: str, margin: float = 0.0) -> Tensor:
    """The values, as a new tensor: four passes over one allocation."""
    ratio = x / scale
    if margin:
        ratio.add_(margin)
    low, high = bounds(bits)
    rounded = ratio.round_() if rounding == "half_even" else round_to_int(ratio, rounding)
    return rounded.clamp_(low, high).mul_(scale)


class _FakeQuantize(torch.autograd.Function):
    """Saves x, which its producer mostly keeps anyway, and a copy of the scale, which may change in place afterwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, bits: int, rounding: str, margin: float, saturate: bool) -> Tensor:
        ctx.save_for_backward(x, scale.clone())
        low, high = pass_limits(rounding, bits) if saturate else (-math.inf, math.inf)
        ctx.limits = low - margin, high
        return _on_grid(x, scale, bits, rounding, margin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, scale = ctx.saved_tensors
        return _clip_gradient(grad, x / scale, ctx.limits), None, None, None, None, None


def _clip_gradient(grad: Tensor, ratio: Tensor, limits: tuple[float, float]) -> Tensor:
    """`grad` where the ratio lies inside the limits, 0 elsewhere; overwrites `ratio`."""
    # the gradient of hardtanh is this mask in one pass
    result: Tensor = torch.ops.aten.hardtanh_backward.grad_input(grad, ratio, *limits, grad_input=ratio)
    return result


def fake_quantize(
    x: Tensor, scale: Tensor, bits: int = 8, rounding: str = "half_even", axis: int = -1, saturate: bool = True
) -> Tensor:
    """`dequantize(quantize(x))` with a straight-through gradient that is 0 where the value saturates (everywhere 1: `saturate` False).

    `scale`: float32 `[1]`, or `[C]` along `axis`. Computed in float32; the result is float32 under autocast, else x's dtype.
    """
    if exporting():
        warn_of_plain_operations()
    return _fake_quantize(x, along(scale, axis, x.dim()), bits, rounding, 0.0, saturate)


def fake_quantize_off_grid(x: Tensor, scale: Tensor, bits: int = 8) -> Tensor:
    """`dequantize(quantize_off_grid(x))` with the same gradient: results between the points of their operand's grid."""
    if exporting():
        return x  # in a file the operation keeps its operand's scale by itself
    return _fake_quantize(x, scale, bits, "floor", OFF_GRID_MARGIN)


def _fake_quantize(x: Tensor, scale: Tensor, bits: int, rounding: str, margin: float, saturate: bool = True) -> Tensor:
    values = x if x.dtype is torch.float32 else x.float()
    scale = scale.reshape(()) if x.dim() == 0 else scale  # a tensor without axes gets none from its scale
    if torch.is_grad_enabled() and x.requires_grad and not exporting():
        result: Tensor = _FakeQuantize.apply(values, scale, bits, rounding, margin, saturate)  # type: ignore[no-untyped-call]
    else:
        result = _on_grid(values, scale, bits, rounding, margin)
    # A value on the int8 grid does not survive rounding to 8 bits of mantissa: under autocast stay in float32.
    if x.dtype is torch.float32 or torch.is_autocast_enabled(x.device.type):
        return result
    return result.to(x.dtype)


@torch.no_grad()
def half_step_bias(bias: Tensor, scale_out: Tensor) -> Tensor:
    """`arithmetic.half_step_bias`; `scale_out`: float32 of one element."""
    half = scale_out.float().reshape(()) / 2
    moved = bias.detach().float() + half
    low, high = moved.aminmax()
    return torch.where(power_of_two_scale(scale_from_range(low, high)) <= half, moved, bias.detach().float())


def fake_quantize_bias(bias: Tensor) -> Tensor:
    """Bernoulli's int8 bias with one power-of-two scale for the layer: `arithmetic.bernoulli_bias_scale`, half to even."""
    low, high = bias.detach().float().aminmax()
    return fake_quantize(bias, power_of_two_scale(scale_from_range(low, high)).view(1))
