"""The one home of the formulas in docs/arithmetic.md: scales, rounding, requantization, tables.

Where windows, resizes and grids read is in `hqc.resampling`.

Everything here is NumPy on plain arrays and exact: integers are computed in int64, reals in float64 unless a line says float32.
Kernels may compute faster, never differently.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hqc.errors import QuantizationError

VERSION = 1
ArrayI = npt.NDArray[np.int64]
Rounding = Literal["half_even", "half_away", "half_up", "floor"]
ROUNDINGS: tuple[str, ...] = ("half_even", "half_away", "half_up", "floor")
FLOAT32_EPS = float(np.finfo(np.float32).eps)


# --- integers ----------------------------------------------------------------------------------------------------------


def bounds(bits: int) -> tuple[int, int]:
    """Smallest and largest signed integer of `bits` bits."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def saturate(x: npt.ArrayLike, bits: int) -> ArrayI:
    """`sat_b(x)`."""
    low, high = bounds(bits)
    return np.clip(np.asarray(x, np.int64), low, high)


def rounding_shift_right(x: npt.ArrayLike, n: npt.ArrayLike) -> ArrayI:
    """`rsr(x, n)`: `(x + 2^(n-1)) >> n` for n >= 1, `x` for 0, `x << -n` below; element-wise in int64."""
    x, n = np.asarray(x, np.int64), np.asarray(n, np.int64)
    right = np.maximum(n, 0)
    half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
    result: ArrayI = np.where(n >= 0, (x + half) >> right, x << np.maximum(-n, 0))
    return result


# --- section 1: scales -------------------------------------------------------------------------------------------------


def scale_from_range(minimum: npt.ArrayLike, maximum: npt.ArrayLike, bits: int = 8) -> npt.NDArray[np.float32]:
    """float32 `max(-min(0, minimum), max(0, maximum)) / (2^(bits-1) - 0.5)`, at least float32 eps; element-wise."""
    low = np.minimum(np.asarray(minimum, np.float64), 0.0)
    high = np.maximum(np.asarray(maximum, np.float64), 0.0)
    scale = np.maximum(-low, high) / ((1 << (bits - 1)) - 0.5)
    return np.maximum(scale, FLOAT32_EPS).astype(np.float32)


def weight_scale(minimum: npt.ArrayLike, maximum: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Per-channel int8 scales; an all-zero channel takes the layer's largest channel scale."""
    scale = np.atleast_1d(scale_from_range(minimum, maximum))
    zero = (np.atleast_1d(np.asarray(minimum)) == 0) & (np.atleast_1d(np.asarray(maximum)) == 0)
    return np.where(zero, scale.max(), scale).astype(np.float32)


def power_of_two_scale(scale: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Bernoulli's scale `2^-k`, `k = clamp(floor(-log2 s), 1, 14)`; element-wise."""
    # frexp is exact where log2 is not: s = m 2^e, 0.5 <= m < 1, so -log2 s is in (-e, 1-e] and its floor is
    # -e, or 1-e when m is exactly 0.5.
    mantissa, exponent = np.frexp(np.asarray(scale, np.float32))
    k = np.clip(np.where(mantissa == 0.5, 1 - exponent, -exponent), 1, 14)
    scales: npt.NDArray[np.float32] = np.ldexp(np.float32(1.0), -k).astype(np.float32)
    return scales


def is_power_of_two(scale: npt.ArrayLike) -> bool:
    """True when every scale is one that `power_of_two_scale` gives."""
    return bool((power_of_two_scale(scale) == np.asarray(scale, np.float32)).all())


BLOCK = 1 << 20
"""Elements of a large array that are worked on at a time, so that no step needs a second one of its size."""


def row_blocks(array: npt.NDArray[Any]) -> Iterator[tuple[slice, ...]]:
    """Indices that cut `array` along its first axis into blocks of about `BLOCK` elements; one for an array without axes."""
    if array.ndim == 0:
        yield ()
        return
    step = max(1, BLOCK * len(array) // max(1, array.size))
    for first in range(0, len(array), step):
        yield (slice(first, first + step),)


# --- section 2: quantize, dequantize -----------------------------------------------------------------------------------


def round_to_int(x: npt.NDArray[Any], rounding: str = "half_even") -> npt.NDArray[Any]:
    """`x` rounded to whole numbers in its own float dtype."""
    if rounding == "half_even":
        return np.asarray(np.rint(x))
    if rounding == "floor":
        return np.asarray(np.floor(x))
    if rounding == "half_up":
        floor = np.floor(x)
        return np.asarray(floor + (x - floor >= 0.5))
    if rounding == "half_away":
        whole = np.trunc(x)
        return np.asarray(whole + np.sign(x) * (np.abs(x - whole) >= 0.5))
    raise ValueError(f"unknown rounding {rounding!r}; known: {', '.join(ROUNDINGS)}")


def _along(scale: npt.ArrayLike, axis: int | None, rank: int) -> npt.NDArray[np.float32]:
    array = np.asarray(scale, np.float32)
    return array if axis is None else array.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def quantize(
    x: npt.ArrayLike, scale: npt.ArrayLike, bits: int = 8, rounding: str = "half_even", axis: int | None = None
) -> ArrayI:
    """`sat(round(x / s))`, division in float32; NaN is refused with `QuantizationError`."""
    x = np.asarray(x, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # infinities saturate
        ratio = x / _along(scale, axis, x.ndim)
        if np.isnan(ratio).any():
            raise QuantizationError("cannot quantize NaN; find the operation that produced it")
        low, high = bounds(bits)
        integers: ArrayI = np.clip(round_to_int(ratio, rounding), low, high).astype(np.int64)
    return np.asarray(integers)  # of one number NumPy makes a scalar


def quantize_weight(weight: npt.NDArray[Any], scale: npt.ArrayLike, axis: int | None) -> npt.NDArray[np.int8]:
    """`quantize(weight, scale, 8, "half_even", axis)` as int8, block by block: a large weight is never copied as floats."""
    weight = np.asarray(weight)
    if weight.ndim == 0:
        return quantize_weight(weight[None], scale, None).reshape(())
    result = np.empty(weight.shape, np.int8)
    along = np.broadcast_to(_along(scale, axis, weight.ndim), weight.shape)
    for rows in row_blocks(weight):
        ratio = np.divide(weight[rows], along[rows], dtype=np.float32)
        np.rint(ratio, out=ratio)
        if not np.isfinite(np.sum(ratio, dtype=np.float64)) and np.isnan(ratio).any():
            raise QuantizationError("cannot quantize NaN; find the operation that produced it")
        np.clip(ratio, -128, 127, out=ratio)
        result[rows] = ratio
    return result


def dequantize(q: npt.ArrayLike, scale: npt.ArrayLike, axis: int | None = None) -> npt.NDArray[np.float32]:
    """`q * s` in float32."""
    q = np.asarray(q)
    with np.errstate(over="ignore", under="ignore"):  # whatever NumPy was told to do about it
        return np.asarray(q.astype(np.float32) * _along(scale, axis, q.ndim))


OFF_GRID_MARGIN = 2.0**-12


def quantize_off_grid(x: npt.ArrayLike, scale: npt.ArrayLike, bits: int = 8) -> ArrayI:
    """Section 8: `sat(floor(x / s + 2^-12))` in float32, for ops that leave their operand's grid and whose kernels round down.

    Such a result is a sum of grid points with dyadic weights. Where it is a whole number of steps, float32 may find it an ulp
    too small; the margin is larger than that error (2^-15 steps for int8) and keeps it from costing a step.
    """
    low, high = bounds(bits)
    ratio = np.asarray(x, np.float32) / np.asarray(scale, np.float32) + np.float32(OFF_GRID_MARGIN)
    return np.clip(np.floor(ratio), low, high).astype(np.int64)


# --- section 3: requantize ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RequantParams:
    """How an accumulator becomes a result: multiplier M, pre-shift p, post-shift S (int64, all of one shape) and mode.

    `array` is the `[3, ...]` form that the integer IR holds.
    """

    multiplier: ArrayI
    pre_shift: ArrayI
    post_shift: ArrayI
    mode: str

    @property
    def array(self) -> ArrayI:
        return np.array([self.multiplier, self.pre_shift, self.post_shift])


def requant_params(ratio: npt.ArrayLike, bits: int = 8, *, what: str = "requantization") -> RequantParams:
    """M, p, S for a ratio `s_acc / s_out` (float64, any shape) to an int8 or int16 result.

    `QuantizationError` for a ratio of 2^15 or more; below 2^-31 the multiplier is 0.
    """
    ratio = np.asarray(ratio, np.float64)
    least, most = ratio.min(initial=math.inf), ratio.max(initial=0.0)
    if not (least > 0 and most < math.inf):
        raise QuantizationError(f"{what}: the ratio of scales must be positive and finite, got {least}")
    if most >= 2.0**15:
        raise QuantizationError(
            f"{what}: the accumulator's scale is {most:.6g} times the result's scale, the limit is 32768; "
            "calibrate the result's range again"
        )
    mantissa_bits, target = (15, 128.0) if bits == 8 else (31, 32768.0)
    mantissa, exponent = np.frexp(ratio)
    multiplier = np.floor(mantissa * 2.0**mantissa_bits + 0.5).astype(np.int64)
    exponent = exponent.astype(np.int64)
    overflow = multiplier == 1 << mantissa_bits
    multiplier = np.where(overflow, multiplier >> 1, multiplier)
    exponent = exponent + overflow
    shift = mantissa_bits - exponent
    # smallest p >= 0 with (target / ratio) / 2^p < 2^mantissa_bits
    quotient_mantissa, quotient_exponent = np.frexp(target / np.maximum(ratio, 2.0**-1000))
    del quotient_mantissa  # q = m 2^e with m < 1, so q < 2^e, and q >= 2^(e-1): p = e - bits is the smallest
    pre = np.maximum(quotient_exponent.astype(np.int64) - mantissa_bits, 0)
    if least < 2.0**-31:
        vanishing = ratio < 2.0**-31
        multiplier = np.where(vanishing, 0, multiplier)
        pre = np.where(vanishing, 0, pre)
        shift = np.where(vanishing, 1, shift)
    return RequantParams(multiplier, pre, shift, "multiply" if bits == 8 else "multiply64")


def shift_params(ratio: npt.ArrayLike, *, what: str = "requantization") -> RequantParams:
    """Bernoulli's right shift n for a power-of-two ratio `2^-n`; `QuantizationError` when n would be negative."""
    ratio = np.asarray(ratio, np.float64)
    mantissa, exponent = np.frexp(ratio)
    if (mantissa != 0.5).any():
        raise QuantizationError(f"{what}: the ratio of scales {ratio.max():.6g} is not a power of two")
    n = (1 - exponent).astype(np.int64)
    if (n < 0).any():
        raise QuantizationError(
            f"{what}: the result's scale is {ratio.max():.6g} times finer than the accumulator's, and the hardware only "
            "shifts right; give the result a scale at least as coarse"
        )
    return RequantParams(np.ones_like(n), np.zeros_like(n), n, "shift")


_ROW_LIMITS = {
    "multiply": ((0, 1 << 15), (0, 24), (0, 45)),
    "multiply64": ((0, 1 << 31), (0, 16), (1, 61)),
    "shift": ((1, 1), (0, 0), (0, 62)),
    "residual": ((0, 1 << 31), (0, 0), (-31, 62)),
}
"""Smallest and largest M, p and S that section 3 produces for ratios in [2^-31, 2^15), by mode; of a residual S may shift left."""


def row_problem(rows: ArrayI, mode: str) -> str:
    """Which of the rows M, p, S (`[3, ...]`) no ratio of scales gives, with the value and its place; "" when all may be."""
    for name, row, (low, high) in zip(("multiplier M", "pre-shift p", "post-shift S"), rows, _ROW_LIMITS[mode], strict=True):
        wrong = np.argwhere((row < low) | (row > high))
        if len(wrong):
            place = tuple(int(index) for index in wrong[0])
            of = (
                f" of channel {place[0]}"
                if len(place) == 1 and row.size > 1
                else f" at {list(place)}"
                if len(place) > 1
                else ""
            )
            return f"the {name}{of} is {row[place]}, in mode {mode} it is from {low} to {high}"
    return ""


def requantize(acc: npt.ArrayLike, params: RequantParams, bits: int = 8) -> ArrayI:
    """Requantized accumulator in int64; `params` must broadcast with `acc` (reshape per-channel ones first)."""
    acc = np.asarray(acc, np.int64)
    if params.mode == "none":
        return saturate(acc, 32)
    if params.mode == "clip":
        return saturate(acc, bits)
    if params.mode == "shift":
        return saturate(acc >> params.post_shift, bits)
    middle = saturate(acc >> params.pre_shift, 16 if params.mode == "multiply" else 32)
    return saturate(rounding_shift_right(middle * params.multiplier, params.post_shift - params.pre_shift), bits)


# --- section 4: bias, activation bounds, residual ------------------------------------------------------------------------

HEADROOM = 2**29


def quantize_bias(bias: npt.ArrayLike, scale: npt.ArrayLike) -> ArrayI:
    """`floor(b / (s_in * s_w[c]) + 0.5)`; `scale` is the product in float64."""
    return np.floor(np.asarray(bias, np.float64) / np.asarray(scale, np.float64) + 0.5).astype(np.int64)


def bernoulli_bias_scale(bias: npt.ArrayLike) -> float:
    """The layer's one power-of-two scale of an int8 bias."""
    b = np.asarray(bias, np.float32)
    return float(power_of_two_scale(scale_from_range(b.min(), b.max())))


def bernoulli_bias(bias: npt.ArrayLike, acc_scale: npt.ArrayLike) -> ArrayI:
    """The int8 bias shifted into the accumulator's power-of-two scale (`<<`, or `>>` with floor)."""
    scale = bernoulli_bias_scale(bias)
    q = quantize(np.asarray(bias, np.float32), np.float32(scale))
    _, exponent = np.frexp(np.float64(scale) / np.asarray(acc_scale, np.float64))
    left = np.broadcast_to((exponent - 1).astype(np.int64), q.shape)
    return np.where(left >= 0, q << np.maximum(left, 0), q >> np.maximum(-left, 0))


def half_step_bias(bias: npt.ArrayLike, scale_out: float) -> npt.NDArray[np.float32]:
    """`b + s_out / 2`, so that a requantization that only shifts (and so floors) rounds to nearest.

    The bias is float32; it comes back as it is where the int8 grid of the sum is coarser than half a step, which it cannot hold.
    """
    b = np.asarray(bias, np.float32)
    half = np.float32(scale_out) / np.float32(2)
    return b + half if bernoulli_bias_scale(b + half) <= half else b


def residual_params(ratio: npt.ArrayLike, bits: int = 8, *, what: str = "residual") -> RequantParams:
    """M_r, S_r of `rsr(res * M_r, S_r)` for `r = s_res / (s_in * s_w)`; p is 0, and S_r < 0 shifts left.

    The headroom rule bounds r from above, so only a ratio that is not positive and finite is refused.
    """
    ratio = np.asarray(ratio, np.float64)
    if not (np.isfinite(ratio).all() and (ratio > 0).all()):
        raise QuantizationError(f"{what}: the ratio of scales must be positive and finite, got {ratio.min()}")
    mantissa_bits = 15 if bits == 8 else 31
    mantissa, exponent = np.frexp(ratio)
    multiplier = np.floor(mantissa * 2.0**mantissa_bits + 0.5).astype(np.int64)
    overflow = multiplier == 1 << mantissa_bits
    multiplier = np.where(overflow, multiplier >> 1, multiplier)
    shift = mantissa_bits - (exponent.astype(np.int64) + overflow)
    vanishing = ratio < 2.0**-31
    multiplier, shift = np.where(vanishing, 0, multiplier), np.where(vanishing, 1, shift)
    return RequantParams(multiplier, np.zeros_like(multiplier), shift, "multiply" if bits == 8 else "multiply64")


def headroom_weight_scale(
    term: npt.ArrayLike, scale_in: float, scale_weight: npt.ArrayLike, *, power_of_two: bool = False
) -> npt.NDArray[np.float32]:
    """`s_w[c]`, raised where a bias or residual term of real size `term` would exceed 2^29 in units of `s_in * s_w[c]`.

    `QuantizationError` where no scale is large enough (bernoulli's scales end at 0.5).
    """
    current = np.asarray(scale_weight, np.float32)
    need = np.asarray(term, np.float64) / (float(scale_in) * float(HEADROOM))
    raised = need.astype(np.float32)
    raised = np.where(raised.astype(np.float64) < need, np.nextafter(raised, np.float32(np.inf)), raised)
    if power_of_two:
        mantissa, exponent = np.frexp(raised)
        raised = np.ldexp(np.float32(1.0), np.where(mantissa == 0.5, exponent - 1, exponent)).astype(np.float32)
        if (np.where(need > current, raised, 0) > 0.5).any():
            raise QuantizationError(
                f"a bias or residual of {float(np.max(term)):.6g} does not fit the accumulator: the weight scale "
                f"would have to be {float(raised.max()):.6g}, the largest is 0.5"
            )
    if not np.isfinite(raised).all():
        raise QuantizationError(f"a bias or residual of {float(np.max(term)):.6g} does not fit the accumulator")
    return np.where(need > current.astype(np.float64), raised, current).astype(np.float32)


def accumulator_bound(weight: npt.NDArray[np.int8], axis: int, input_magnitude: int, extra: npt.ArrayLike = 0) -> int:
    """Largest `|acc|`: `sum |w_q| * max |x_q|` per channel of `axis`, plus `extra` (bias and residual terms)."""
    channels = np.moveaxis(weight, axis, 0)
    total = np.zeros(len(channels), np.int64)
    for rows in row_blocks(channels):
        block = channels[rows]
        total[rows] = np.abs(block.reshape(len(block), -1).astype(np.int16)).sum(axis=1, dtype=np.int64)
    return int((total * input_magnitude + np.asarray(extra, np.int64)).max(initial=0))


def grid_bound(bound: float, scale: float) -> int:
    """The integer bound of a clamp: `floor(bound / s + 0.5)`."""
    return math.floor(float(bound) / float(scale) + 0.5)


# --- section 5: element-wise ------------------------------------------------------------------------------------------


def add_unit(scale_a: float, scale_b: float, bits: int = 8) -> float:
    """The common unit t of a sum: `max(s_1, s_2) / 2^14` (int16: `/ 2^24`)."""
    return max(float(scale_a), float(scale_b)) / 2.0 ** (14 if bits == 8 else 24)


def add_factor(scale: float, unit: float) -> int:
    """`K = floor(s / t + 0.5)`."""
    return math.floor(float(scale) / unit + 0.5)


def constant_scale(constant: npt.ArrayLike) -> np.float32:
    """Scale of a non-uniform constant operand: `max|c| / 127`."""
    return np.float32(max(float(np.abs(np.asarray(constant, np.float64)).max()) / 127.0, FLOAT32_EPS))


# --- section 6: tables ------------------------------------------------------------------------------------------------


def sample_table(
    function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    scale_in: float,
    scale_out: float,
    bits_in: int = 8,
    bits_out: int = 8,
    *,
    floor: bool = False,
) -> ArrayI:
    """`sat(floor(f(q * s_in) / s_out + 0.5))` for every q from qmin up, f in float64; `floor`: no half (bernoulli).

    Where f is undefined (NaN) the entry is 0; infinities saturate.
    """
    low, high = bounds(bits_in)
    with np.errstate(all="ignore"):
        real = np.asarray(function(np.arange(low, high + 1, dtype=np.float64) * float(scale_in)), np.float64)
        scaled = np.floor(real / float(scale_out) + (0.0 if floor else 0.5))
    low_out, high_out = bounds(bits_out)
    finite = np.nan_to_num(scaled, nan=0.0, posinf=high_out, neginf=low_out)
    table: ArrayI = np.clip(finite, low_out, high_out).astype(np.int64)
    return table


def softmax_table(scale: float, bits: int = 8) -> ArrayI:
    """`exp(-d * s)` in Q15 (uint16 range) for differences d = 0 .. 2^bits - 1."""
    return np.floor(np.exp(-np.arange(1 << bits, dtype=np.float64) * float(scale)) * 2.0**15 + 0.5).astype(np.int64)


# --- section 7: pooling -----------------------------------------------------------------------------------------------


def bernoulli_pool_gain(count: int) -> int:
    """`g = int(2^9 / n)`."""
    return 512 // count


POOL_ACCEPTANCE = 0.95


def bernoulli_pool_accepts(count: int) -> bool:
    """True when the gain of a window of `count` elements loses at most 5 %: `n * g / 512 >= 0.95`."""
    return count * bernoulli_pool_gain(count) / 512 >= POOL_ACCEPTANCE


@functools.cache
def bernoulli_pool_stages(height: int, width: int) -> tuple[tuple[int, int], ...] | None:
    """Windows, applied one after another without overlap, that make up a pool of `height` x `width` on bernoulli.

    One window where it is accepted; else the factorization into accepted windows with the fewest stages, then the largest
    total gain, then the largest first windows; None where there is none.
    """
    if bernoulli_pool_accepts(height * width):
        return ((height, width),)
    best: tuple[tuple[int, float], tuple[tuple[int, int], ...]] | None = None
    for h in (d for d in range(height, 0, -1) if height % d == 0):
        for w in (d for d in range(width, 0, -1) if width % d == 0):
            if (h, w) in ((1, 1), (height, width)) or not bernoulli_pool_accepts(h * w):
                continue
            rest = bernoulli_pool_stages(height // h, width // w)
            if rest is None:
                continue
            stages = ((h, w), *rest)
            gain = math.prod(a * b * bernoulli_pool_gain(a * b) / 512 for a, b in stages)
            key = (len(stages), -gain)
            if best is None or key < best[0]:
                best = key, stages
    return None if best is None else best[1]
