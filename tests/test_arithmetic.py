"""Every formula of hqc.arithmetic against an obvious scalar version of docs/arithmetic.md, in exact rationals."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from hqc import arithmetic, resampling
from hqc.errors import QuantizationError

MANY = settings(max_examples=200, deadline=None)
FEW = settings(max_examples=60, deadline=None)
int32 = st.integers(-(2**31), 2**31 - 1)
ratios = st.floats(2.0**-31, 2.0**15, exclude_max=True)
scales = st.floats(2.0**-20, 2.0**4, width=32)


def floor_half(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


def clip(x: int, bits: int) -> int:
    return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, x))


# --- integers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_bounds_are_those_of_numpys_integers(bits: int) -> None:
    info = np.iinfo(f"int{bits}")
    assert arithmetic.bounds(bits) == (info.min, info.max)
    assert arithmetic.saturate([info.min - 1, 0, info.max + 1], bits).tolist() == [info.min, 0, info.max]


@MANY
@given(x=st.integers(-(2**40), 2**40), n=st.integers(-20, 40))
def test_rounding_shift_right_rounds_half_up(x: int, n: int) -> None:
    assert arithmetic.rounding_shift_right(x, n) == floor_half(Fraction(x) / Fraction(2) ** n)


def test_rounding_shift_right_takes_one_shift_per_element() -> None:
    assert arithmetic.rounding_shift_right([5, 5, 5], [0, 1, -1]).tolist() == [5, 3, 10]


# --- section 1: scales ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high", "printed"), [(-0.5301, 0.2, "0.0042"), (-0.1, 0.9995, "0.0078")])
def test_scale_is_the_one_the_reference_prints(low: float, high: float, printed: str) -> None:
    assert f"{arithmetic.scale_from_range(low, high):.4f}" == printed


@FEW
@given(low=st.floats(-100, 100, width=32), high=st.floats(-100, 100, width=32), bits=st.sampled_from([8, 16]))
def test_scale_covers_the_range_and_zero(low: float, high: float, bits: int) -> None:
    assume(low <= high)
    scale = arithmetic.scale_from_range(low, high, bits)
    assert scale.dtype == np.float32
    reach = max(-min(0.0, low), max(0.0, high))
    assert scale == max(np.float32(reach / (2 ** (bits - 1) - 0.5)), np.finfo(np.float32).eps)


def test_all_zero_range_has_the_smallest_scale() -> None:
    assert arithmetic.scale_from_range(0.0, 0.0) == np.finfo(np.float32).eps


def test_all_zero_channel_takes_the_layers_largest_scale() -> None:
    scale = arithmetic.weight_scale([-1.0, 0.0, -2.0], [0.5, 0.0, 0.0])
    np.testing.assert_array_equal(scale, np.float32([1 / 127.5, 2 / 127.5, 2 / 127.5]))


@MANY
@given(scale=st.floats(2.0**-24, 2.0**8, width=32))
@example(scale=0.5)
@example(scale=2.0**-14)
@example(scale=float(np.nextafter(np.float32(0.25), np.float32(1))))
@example(scale=float(np.nextafter(np.float32(0.25), np.float32(0))))
def test_power_of_two_scale_is_the_clamped_floor_of_the_logarithm(scale: float) -> None:
    exact = Fraction(scale)
    k = 0
    while Fraction(1, 2) ** (k + 1) >= exact:  # floor(-log2 s): the largest k with 2^-k >= s
        k += 1
    while Fraction(1, 2) ** k < exact:
        k -= 1
    assert arithmetic.power_of_two_scale(scale) == 2.0 ** -min(max(k, 1), 14)


@FEW
@given(reach=st.floats(2.0**-10, 63.5, width=32))
def test_power_of_two_scale_never_shrinks_ranges_up_to_63_5(reach: float) -> None:
    scale = arithmetic.scale_from_range(-reach, reach)
    assert arithmetic.power_of_two_scale(scale) >= scale


# --- section 2: quantize, dequantize -----------------------------------------------------------------------------------------


def scalar_round(x: Fraction, rounding: str) -> int:
    floor = math.floor(x)
    rest = x - floor
    if rounding == "floor":
        return floor
    if rest != Fraction(1, 2):
        return floor + (rest > Fraction(1, 2))
    if rounding == "half_up":
        return floor + 1
    if rounding == "half_away":
        return floor + (x > 0)
    return floor + floor % 2


@pytest.mark.parametrize("rounding", arithmetic.ROUNDINGS)
@MANY
@given(x=st.one_of(st.floats(-300, 300, width=32), st.integers(-300, 300).map(lambda n: n / 2)), scale=scales)
@example(x=2.5, scale=1.0)
@example(x=-2.5, scale=1.0)
@example(x=0.49999997, scale=1.0)
@example(x=-0.49999997, scale=1.0)
def test_quantize_divides_in_float32_and_rounds_as_named(rounding: str, x: float, scale: float) -> None:
    ratio = Fraction(float(np.float32(x) / np.float32(scale)))
    assert arithmetic.quantize(np.float32(x), scale, rounding=rounding) == clip(scalar_round(ratio, rounding), 8)


def test_quantize_saturates_infinities_and_refuses_nan() -> None:
    assert arithmetic.quantize([np.inf, -np.inf, 1e30], 0.5, 16).tolist() == [32767, -32768, 32767]
    with pytest.raises(QuantizationError, match="cannot quantize NaN"):
        arithmetic.quantize([0.0, np.nan], 0.5)


def test_unknown_rounding_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown rounding 'up'; known: half_even, half_away"):
        arithmetic.round_to_int(np.zeros(1), "up")


def test_per_channel_scales_run_along_their_axis() -> None:
    x = np.ones((2, 3, 4), np.float32)
    scale = np.array([0.5, 0.25, 0.125], np.float32)
    q = arithmetic.quantize(x, scale, axis=1)
    np.testing.assert_array_equal(q, np.broadcast_to(np.array([2, 4, 8])[:, None], x.shape))
    np.testing.assert_array_equal(arithmetic.dequantize(q, scale, axis=-2), x)


@FEW
@given(q=st.integers(-128, 127), scale=scales)
def test_quantize_inverts_dequantize(q: int, scale: float) -> None:
    assert arithmetic.quantize(arithmetic.dequantize(q, scale), scale) == q


# --- section 3: requantize ---------------------------------------------------------------------------------------------------


def scalar_params(ratio: Fraction, bits: int) -> tuple[int, int, int]:
    """M, p, S by the letter of the document."""
    if ratio < Fraction(1, 2**31):
        return 0, 0, 1
    width, target = (15, 128) if bits == 8 else (31, 32768)
    exponent = 0
    while ratio / Fraction(2) ** exponent >= 1:
        exponent += 1
    while ratio / Fraction(2) ** exponent < Fraction(1, 2):
        exponent -= 1
    multiplier = floor_half(ratio / Fraction(2) ** exponent * 2**width)
    if multiplier == 2**width:
        multiplier, exponent = 2 ** (width - 1), exponent + 1
    pre = 0
    while target / ratio / 2**pre >= 2**width:
        pre += 1
    return multiplier, pre, width - exponent


@pytest.mark.parametrize("bits", [8, 16])
@MANY
@given(ratio=ratios)
@example(ratio=1.0)
@example(ratio=float(np.nextafter(1.0, 0.0)))
@example(ratio=2.0**-31)
@example(ratio=float(np.nextafter(2.0**-31, 0.0)))
@example(ratio=float(np.nextafter(2.0**15, 0.0)))
def test_parameters_are_those_of_the_document(bits: int, ratio: float) -> None:
    params = arithmetic.requant_params(ratio, bits)
    assert (params.multiplier, params.pre_shift, params.post_shift) == scalar_params(Fraction(ratio), bits)
    assert params.array.tolist() == list(scalar_params(Fraction(ratio), bits))
    assert params.mode == ("multiply" if bits == 8 else "multiply64")


@MANY
@given(acc=int32, ratio=ratios)
@example(acc=2**31 - 1, ratio=32767.5)
def test_int8_requantization_is_its_steps_within_32_bits(acc: int, ratio: float) -> None:
    multiplier, pre, post = scalar_params(Fraction(ratio), 8)
    middle = clip(acc >> pre, 16)
    product = middle * multiplier
    shift = post - pre
    rounded = product + (1 << (shift - 1)) if shift > 0 else product << -shift
    assert -(2**31) <= rounded < 2**31
    assert arithmetic.requantize(acc, arithmetic.requant_params(ratio)) == clip(rounded >> max(shift, 0), 8)


@pytest.mark.parametrize(("bits", "bound"), [(8, 0.51), (16, 0.51)])
def test_measured_error_stays_within_0_51_lsb(bits: int, bound: float) -> None:
    """500,000 accumulators over the whole range of ratios, results inside and outside the integer range."""
    generator = np.random.default_rng(0)
    count = 500_000
    ratio = 2.0 ** generator.uniform(-30 if bits == 8 else -31, 3, count)
    target = generator.uniform(-1.1, 1.1, count) * 2 ** (bits - 1)
    acc = np.clip(np.rint(target / ratio), -(2**31), 2**31 - 1).astype(np.int64)
    real = np.clip(acc * ratio, *arithmetic.bounds(bits))
    error = np.abs(arithmetic.requantize(acc, arithmetic.requant_params(ratio, bits), bits) - real)
    assert error.max() <= bound
    assert error.max() > 0.49


@FEW
@given(ratio=ratios, accs=st.lists(int32, min_size=2, max_size=20))
def test_requantization_is_monotonic(ratio: float, accs: list[int]) -> None:
    result = arithmetic.requantize(sorted(accs), arithmetic.requant_params(ratio))
    assert (np.diff(result) >= 0).all()


def test_ratios_out_of_range_are_refused_or_vanish() -> None:
    with pytest.raises(QuantizationError, match=r"conv1: the accumulator's scale is 32768 times the result's scale"):
        arithmetic.requant_params(2.0**15, what="conv1")
    for bad in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(QuantizationError, match="must be positive and finite"):
            arithmetic.requant_params(bad)
    tiny = arithmetic.requant_params(2.0**-40)
    assert arithmetic.requantize([2**31 - 1, -(2**31)], tiny).tolist() == [0, 0]


def test_parameters_per_channel_match_those_one_by_one() -> None:
    ratio = np.array([1e-6, 0.3, 1.0, 77.0])
    together = arithmetic.requant_params(ratio).array
    np.testing.assert_array_equal(together, np.stack([arithmetic.requant_params(r).array for r in ratio], axis=1))


@FEW
@given(acc=int32, n=st.integers(0, 30))
def test_bernoulli_requantization_is_a_floor_shift(acc: int, n: int) -> None:
    params = arithmetic.shift_params(2.0**-n)
    assert params.mode == "shift"
    assert arithmetic.requantize(acc, params) == clip(acc // 2**n, 8)


def test_bernoulli_refuses_left_shifts_and_other_ratios() -> None:
    with pytest.raises(QuantizationError, match="pool: the result's scale is 2 times finer than the accumulator's"):
        arithmetic.shift_params(2.0, what="pool")
    with pytest.raises(QuantizationError, match="is not a power of two"):
        arithmetic.shift_params(0.3)


def test_modes_clip_and_none_only_saturate() -> None:
    for mode, expected in (("clip", [127, -128, 5]), ("none", [300, -300, 5])):
        params = arithmetic.RequantParams(np.int64(1), np.int64(0), np.int64(0), mode)  # type: ignore[arg-type]
        assert arithmetic.requantize([300, -300, 5], params).tolist() == expected


# --- section 4: bias, bounds ---------------------------------------------------------------------------------------------------


@FEW
@given(bias=st.floats(-100, 100), scale=st.floats(1e-6, 1.0))
def test_bias_is_rounded_half_up_in_float64(bias: float, scale: float) -> None:
    assert arithmetic.quantize_bias(bias, scale) == math.floor(bias / scale + 0.5)


def test_bernoulli_bias_is_int8_shifted_into_the_accumulator() -> None:
    bias = np.array([1.0, -0.5, 0.3], np.float32)
    scale = arithmetic.bernoulli_bias_scale(bias)
    assert scale == 2.0**-6  # 1 / 127.5 = 2^-6.99: floor(6.99) = 6
    q = [64, -32, 19]  # half-even of b / 2^-6
    assert arithmetic.bernoulli_bias(bias, 2.0**-10).tolist() == [x << 4 for x in q]
    assert arithmetic.bernoulli_bias(bias, 2.0**-6).tolist() == q
    assert arithmetic.bernoulli_bias(bias, 2.0**-4).tolist() == [x >> 2 for x in q]


@pytest.mark.parametrize(("bound", "scale", "expected"), [(6.0, 0.05, 120), (6.0, 0.04, 150), (0.25, 0.5, 1), (-0.25, 0.5, 0)])
def test_clamp_bounds_round_half_up(bound: float, scale: float, expected: int) -> None:
    assert arithmetic.grid_bound(bound, scale) == expected


# --- section 5: element-wise ---------------------------------------------------------------------------------------------------


@FEW
@given(a=scales, b=scales, bits=st.sampled_from([8, 16]))
def test_sum_factors_are_exact_to_half_a_unit(a: float, b: float, bits: int) -> None:
    unit = arithmetic.add_unit(a, b, bits)
    steps = 2 ** (14 if bits == 8 else 24)
    assert unit == max(a, b) / steps
    for scale in (a, b):
        factor = arithmetic.add_factor(scale, unit)
        assert abs(Fraction(scale) / Fraction(unit) - factor) <= Fraction(1, 2)
        assert 0 <= factor <= steps


@FEW
@given(a=scales, b=scales, qa=st.integers(-128, 127), qb=st.integers(-128, 127))
def test_a_sum_in_the_common_unit_is_within_its_error_bound(a: float, b: float, qa: int, qb: int) -> None:
    unit = arithmetic.add_unit(a, b)
    acc = qa * arithmetic.add_factor(a, unit) + qb * arithmetic.add_factor(b, unit)
    assert abs(acc) < 2**31
    exact = qa * Fraction(a) + qb * Fraction(b)
    assert abs(acc * Fraction(unit) - exact) <= 128 * Fraction(unit)


def test_constants_use_all_of_127() -> None:
    assert arithmetic.constant_scale([0.5, -2.54]) == np.float32(2.54 / 127)
    assert arithmetic.constant_scale([0.0]) == np.finfo(np.float32).eps


# --- section 6: tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("floor", [False, True])
@settings(max_examples=10, deadline=None)
@given(scale_in=scales, scale_out=scales)
def test_tables_sample_the_function_at_every_integer(floor: bool, scale_in: float, scale_out: float) -> None:
    table = arithmetic.sample_table(np.tanh, scale_in, scale_out, floor=floor)
    expected = [
        clip(math.floor(float(np.tanh(np.float64(q * scale_in))) / scale_out + (0 if floor else 0.5)), 8)
        for q in range(-128, 128)
    ]
    assert table.tolist() == expected


def test_tables_of_16_bits_have_65536_entries() -> None:
    table = arithmetic.sample_table(np.abs, 1.0, 1.0, 16, 16)
    assert table.shape == (65536,)
    assert table[0] == 32767  # |-32768| saturates
    assert table[32768 + 5] == 5


def test_tables_are_zero_where_undefined_and_saturate_at_poles() -> None:
    log = arithmetic.sample_table(np.log, 1.0, 0.1)
    assert log[:128].tolist() == [0] * 128
    assert log[128] == -128
    assert log[129] == 0
    reciprocal = arithmetic.sample_table(lambda x: 1.0 / x, 1.0, 0.1)
    assert reciprocal[128] == 127


@FEW
@given(scale=st.floats(2.0**-12, 1.0))
def test_softmax_table_is_q15_of_the_exponential(scale: float) -> None:
    table = arithmetic.softmax_table(scale)
    assert table.shape == (256,)
    assert table[0] == 2**15
    assert (np.diff(table) <= 0).all()
    assert table[3] == math.floor(math.exp(-3 * scale) * 2**15 + 0.5)


# --- section 7 and 8: pooling, resize ------------------------------------------------------------------------------------------


def test_bernoulli_pool_gain_is_exact_for_powers_of_two() -> None:
    assert [arithmetic.bernoulli_pool_gain(n) for n in (1, 4, 9, 16, 49)] == [512, 128, 56, 32, 10]


def scalar_coordinates(size_in: int, size_out: int, bits: int, mode: str, align: bool) -> list[int]:
    one = 2**bits
    if align and mode == "bilinear":
        step = floor_half(Fraction(size_in - 1, size_out - 1) * one) if size_out > 1 else 0
        return [step * i for i in range(size_out)]
    step = floor_half(Fraction(size_in, size_out) * one)
    start = 0 if mode == "nearest" else math.floor(Fraction(step - one, 2))
    return [start + step * i for i in range(size_out)]


@MANY
@given(
    size_in=st.integers(1, 64),
    size_out=st.integers(1, 64),
    bits=st.sampled_from([8, 16]),
    mode=st.sampled_from(["nearest", "bilinear"]),
    align=st.booleans(),
)
def test_resize_coordinates_and_their_error(size_in: int, size_out: int, bits: int, mode: str, align: bool) -> None:
    keywords = {"fraction_bits": bits, "mode": mode, "align_corners": align}
    fixed = resampling.resize_coordinates(size_in, size_out, **keywords)  # type: ignore[arg-type]
    assert fixed.tolist() == scalar_coordinates(size_in, size_out, bits, mode, align)
    if align and mode == "bilinear":
        real = [Fraction(i * (size_in - 1), max(size_out - 1, 1)) for i in range(size_out)]
    elif mode == "nearest":
        real = [Fraction(i * size_in, size_out) for i in range(size_out)]
    else:
        real = [Fraction((2 * i + 1) * size_in, 2 * size_out) - Fraction(1, 2) for i in range(size_out)]
    worst = max(abs(Fraction(int(f), 2**bits) - r) for f, r in zip(fixed, real, strict=True))
    measured = resampling.resize_error(size_in, size_out, **keywords)  # type: ignore[arg-type]
    assert measured == pytest.approx(float(worst), abs=1e-12)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_resize_by_a_factor_that_the_sizes_do_not_give_steps_by_the_factor_as_torch_does(mode: str) -> None:
    assert resampling.resize_factor(13, 26, 2.0) is None
    assert resampling.resize_factor(13, 16, None) is None
    assert resampling.resize_factor(13, 16, 1.3) == 1.3
    fixed = resampling.resize_coordinates(13, 16, fraction_bits=16, mode=mode, align_corners=False, factor=1.3)
    index = np.arange(16)
    real = index / 1.3 if mode == "nearest" else (index + 0.5) / 1.3 - 0.5
    assert np.abs(fixed / 2**16 - real).max() < 1e-3
    assert resampling.resize_error(13, 16, fraction_bits=16, mode=mode, align_corners=False, factor=1.3) < 1e-3
    aligned = resampling.resize_coordinates(13, 16, fraction_bits=16, mode="bilinear", align_corners=True, factor=1.3)
    assert aligned[-1] == pytest.approx(12 << 16, abs=16)


def test_resize_to_the_same_size_is_the_identity() -> None:
    for mode, align in (("nearest", False), ("bilinear", False), ("bilinear", True)):
        fixed = resampling.resize_coordinates(7, 7, fraction_bits=8, mode=mode, align_corners=align)
        assert fixed.tolist() == [256 * i for i in range(7)]


@FEW
@given(size_in=st.integers(1, 40), size_out=st.integers(1, 40), bits=st.sampled_from([8, 16]), align=st.booleans())
def test_resize_taps_stay_inside_and_weigh_the_clipped_coordinate(size_in: int, size_out: int, bits: int, align: bool) -> None:
    first, second, weight = resampling.resize_taps(size_in, size_out, fraction_bits=bits, mode="bilinear", align_corners=align)
    for i, coordinate in enumerate(scalar_coordinates(size_in, size_out, bits, "bilinear", align)):
        inside = min(max(Fraction(coordinate, 2**bits), Fraction(0)), Fraction(size_in - 1))
        assert first[i] == math.floor(inside)
        assert second[i] == min(math.floor(inside) + 1, size_in - 1)
        assert weight[i] == math.floor((inside - math.floor(inside)) * 256)


@FEW
@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pad=st.integers(0, 1),
    ceil=st.booleans(),
    include=st.booleans(),
)
def test_pool_divisors_are_torchs(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], pad: int, ceil: bool, include: bool
) -> None:
    import torch
    from torch.nn.functional import avg_pool2d

    assume(2 * pad <= min(kernel) and all(n + 2 * pad >= k for n, k in zip(size, kernel, strict=True)))
    ones = torch.ones(1, 1, *size, dtype=torch.float64)
    total = avg_pool2d(ones, kernel, stride, pad, ceil, divisor_override=1)
    mean = avg_pool2d(ones, kernel, stride, pad, ceil, include)
    output = (total.shape[2], total.shape[3])
    counts = resampling.window_counts(size, kernel, stride, (pad,) * 4, output, count_include_pad=include)
    seen = total[0, 0] > 0  # a window of padding only has mean 0 whatever its divisor
    np.testing.assert_allclose((total / mean)[0, 0][seen], counts[seen.numpy()], rtol=1e-12)


@FEW
@given(size=st.tuples(st.integers(1, 12), st.integers(1, 12)), output=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_adaptive_divisors_count_the_windows(size: tuple[int, int], output: tuple[int, int]) -> None:
    def count(i: int, n: int, out: int) -> int:
        return sum(1 for k in range(n) if i * n // out <= k < math.ceil(Fraction((i + 1) * n, out)))

    expected = [
        [count(i, size[0], output[0]) * count(j, size[1], output[1]) for j in range(output[1])] for i in range(output[0])
    ]
    assert resampling.adaptive_counts(size, output).tolist() == expected


@pytest.mark.parametrize("height", [1, 2, 7, 11, 14, 16, 20, 28, 56, 224])
def test_large_bernoulli_pools_factor_into_accepted_windows(height: int) -> None:
    stages = arithmetic.bernoulli_pool_stages(height, height)
    assert stages is not None
    assert math.prod(h for h, _ in stages) == math.prod(w for _, w in stages) == height
    assert all(h * w * (512 // (h * w)) / 512 >= 0.95 for h, w in stages)
    assert len(stages) == 1 or not arithmetic.bernoulli_pool_accepts(height * height)


def test_a_pool_that_no_windows_make_up_has_no_stages() -> None:
    assert not arithmetic.bernoulli_pool_accepts(87)
    assert arithmetic.bernoulli_pool_stages(1, 523) is None


# --- headroom, residual, bound -------------------------------------------------------------------------------------------------


@FEW
@given(ratio=st.floats(2.0**-20, 2.0**14), residual=st.integers(-128, 127))
def test_residual_is_scaled_to_15_bits(ratio: float, residual: int) -> None:
    params = arithmetic.residual_params(ratio)
    scaled = int(arithmetic.rounding_shift_right(residual * params.multiplier, params.post_shift))
    assert abs(scaled - residual * Fraction(ratio)) <= Fraction(1, 2) + abs(residual) * Fraction(ratio) / 2**15
    assert params.pre_shift == 0


@FEW
@given(term=st.floats(0.0, 1e9), scale_in=st.floats(1e-4, 1.0), weight=st.floats(2.0**-30, 1.0, width=32))
def test_headroom_raises_a_weight_scale_no_more_than_needed(term: float, scale_in: float, weight: float) -> None:
    raised = arithmetic.headroom_weight_scale([term], scale_in, [weight])[0]

    def fits(scale: np.float32) -> bool:
        return term / (scale_in * 2.0**29) <= float(scale)

    assert fits(raised)
    if fits(np.float32(weight)):
        assert raised == np.float32(weight)
    else:
        assert not fits(np.nextafter(raised, np.float32(0)))


def test_bernoulli_headroom_is_a_power_of_two_or_an_error() -> None:
    raised = arithmetic.headroom_weight_scale([2.0**20], 2.0**-3, [2.0**-14], power_of_two=True)
    assert raised.tolist() == [2.0**-6]
    with pytest.raises(
        QuantizationError, match=r"does not fit the accumulator: the weight scale would have to be 4, the largest is 0\.5"
    ):
        arithmetic.headroom_weight_scale([2.0**28], 2.0**-3, [0.25], power_of_two=True)


def test_accumulator_bound_is_reached_by_the_worst_input() -> None:
    weight = np.random.default_rng(0).integers(-128, 128, (4, 3, 3, 3)).astype(np.int8)
    worst = max(abs(int((weight[c].astype(int) * np.sign(weight[c]) * 128).sum())) for c in range(4))
    assert arithmetic.accumulator_bound(weight, 0, 128) == worst
    assert arithmetic.accumulator_bound(weight, 0, 128, extra=[0, 10**9, 0, 0]) >= 10**9


def test_weights_are_quantized_like_everything_else() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    scale = arithmetic.weight_scale(weight.min(axis=1), weight.max(axis=1))
    q = arithmetic.quantize_weight(weight, scale, 0)
    assert q.dtype == np.int8
    np.testing.assert_array_equal(q, arithmetic.quantize(weight, scale, axis=0))
    with pytest.raises(QuantizationError, match="NaN"):
        arithmetic.quantize_weight(np.float32([[np.nan]]), np.float32([1.0]), 0)


@FEW
@given(
    points=st.lists(st.integers(-128, 127), min_size=4, max_size=4),
    weights=st.tuples(st.integers(0, 256), st.integers(0, 256)),
    scale=scales,
)
def test_off_grid_results_round_down_but_keep_whole_steps(points: list[int], weights: tuple[int, int], scale: float) -> None:
    """A bilinear sum of grid points in float32 gives the floor of the exact sum, an ulp of error notwithstanding."""
    w, v = weights
    corners = [(256 - w) * (256 - v), w * (256 - v), (256 - w) * v, w * v]
    exact = sum(q * c for q, c in zip(points, corners, strict=True))
    real = sum(np.float32(q) * np.float32(scale) * np.float32(c / 65536) for q, c in zip(points, corners, strict=True))
    result = int(arithmetic.quantize_off_grid(real, scale))
    assert result == exact >> 16 or (exact % 65536 > 65536 - 32 and result == (exact >> 16) + 1)


def test_one_number_stays_an_array() -> None:
    """ONNX runtimes take no scalars of NumPy."""
    q = arithmetic.quantize(np.float32(0.26), 0.1)
    assert isinstance(q, np.ndarray) and q.shape == () and q == 3
    assert isinstance(arithmetic.dequantize(q, 0.1), np.ndarray)
