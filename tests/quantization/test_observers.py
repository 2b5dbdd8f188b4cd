"""Observers against obvious references; merging equals seeing all data; bad data is refused by name."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hqc import arithmetic
from hqc.errors import CalibrationError, QConfigError
from hqc.quantization.fake_quantize import FakeQuantize
from hqc.quantization.observers import (
    CalibObserver,
    FixedScaleObserver,
    KLObserver,
    MinMaxObserver,
    MixObserver,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    MSEObserver,
    NoopObserver,
    ObserverBase,
    PercentileObserver,
    PerChannelMinMaxObserver,
    PerChannelMSEObserver,
)
from hqc.quantization.observers.histogram import BINS

HISTOGRAMS = [PercentileObserver, KLObserver, MSEObserver, MixObserver, CalibObserver]


def batches(seed: int, count: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(500, generator=generator) * 10.0 ** (i - 1) for i in range(count)]


def observe_all(observer: ObserverBase, data: list[torch.Tensor]) -> ObserverBase:
    for x in data:
        observer(x)
    return observer


def test_min_max_is_the_range_of_everything_seen() -> None:
    data = batches(0)
    observer = observe_all(MinMaxObserver(), data)
    together = torch.cat(data).numpy()
    assert observer.scale().numpy() == arithmetic.scale_from_range(together.min(), together.max())


def test_per_channel_min_max_along_any_axis() -> None:
    x = torch.randn(3, 4, 5)
    for axis in range(3):
        observer = observe_all(PerChannelMinMaxObserver(ch_axis=axis), [x, x * 0.5])
        others = tuple(i for i in range(3) if i != axis)
        assert torch.equal(observer.min_val, x.amin(others))
        assert torch.equal(observer.max_val, x.amax(others))


def test_moving_average_starts_with_the_first_batch_and_follows_by_c() -> None:
    observer = MovingAverageMinMaxObserver(averaging_constant=0.25)
    observer(torch.tensor([-1.0, 2.0]))
    assert (observer.min_val.item(), observer.max_val.item()) == (-1.0, 2.0)
    observer(torch.tensor([-3.0, 4.0]))
    assert (observer.min_val.item(), observer.max_val.item()) == (-1.5, 2.5)


def test_averaging_constant_0_freezes_after_the_first_batch() -> None:
    observer = MovingAverageMinMaxObserver(averaging_constant=0.0)
    observer(torch.tensor([-1.0, 2.0]))
    observer(torch.tensor([-100.0, 100.0]))
    assert (observer.min_val.item(), observer.max_val.item()) == (-1.0, 2.0)


def test_weights_constant_of_1_is_exactly_the_present_range() -> None:
    observer = MovingAveragePerChannelMinMaxObserver(ch_axis=0)
    observe_all(observer, [torch.randn(3, 7) * 1e6, last := torch.randn(3, 7)])
    assert torch.equal(observer.min_val, last.amin(1))
    assert torch.equal(observer.max_val, last.amax(1))


def test_int16_scale_uses_the_int16_range() -> None:
    observer = observe_all(MinMaxObserver(dtype="qint16"), [torch.tensor([-2.0, 1.0])])
    assert observer.scale().item() == np.float32(2.0 / 32767.5)


@pytest.mark.parametrize("make", [MinMaxObserver, lambda: PerChannelMinMaxObserver(ch_axis=0), *HISTOGRAMS])
def test_merge_equals_having_seen_all_data(make: type[ObserverBase]) -> None:
    data = [x.reshape(5, 100) for x in batches(1)]
    for order in ([0, 1, 2, 3], [3, 0, 2, 1]):
        first = observe_all(make(), [data[i] for i in order[:2]])
        second = observe_all(make(), [data[i] for i in order[2:]])
        first.merge(second)
        together = observe_all(make(), data)
        assert first.state_dict().keys() == together.state_dict().keys()
        for name, value in together.state_dict().items():
            assert torch.equal(first.state_dict()[name], value), name
        assert torch.equal(first.scale(), together.scale())


@pytest.mark.parametrize("make", [MinMaxObserver, CalibObserver])
def test_merge_with_an_empty_observer_changes_nothing(make: type[ObserverBase]) -> None:
    observer, empty = observe_all(make(), batches(2)), make()
    before = observer.scale().clone()
    observer.merge(make())
    empty.merge(observer)
    assert torch.equal(observer.scale(), before)
    assert torch.equal(empty.scale(), before)


def test_observers_of_different_kinds_do_not_merge() -> None:
    with pytest.raises(CalibrationError, match="cannot merge MinMaxObserver of b into CalibObserver of a"):
        CalibObserver(name="a").merge(MinMaxObserver(name="b"))


# --- histograms --------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    data=st.lists(
        st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=1, max_size=20), min_size=1, max_size=5
    )
)
def test_histogram_counts_every_value_in_its_bin(data: list[list[float]]) -> None:
    observer = observe_all(CalibObserver(), [torch.tensor(x) for x in data])
    values = np.abs(np.concatenate([np.float32(x) for x in data])).astype(np.float64)
    edges = observer.calib_bin_edges.numpy().astype(np.float64)
    width = edges[1] - edges[0]
    expected = np.bincount(np.floor(values / width).astype(int), minlength=2048)
    np.testing.assert_array_equal(observer.calib_hist.numpy(), expected)
    assert values.max() < edges[-1]
    assert values.max() == 0 or edges[-1] <= 2 * values.max() or edges[-1] == 2.0**-126
    assert observer.max_val.item() == values.max()


def test_zeros_first_do_not_spoil_the_resolution() -> None:
    observer = observe_all(CalibObserver(), [torch.zeros(100), torch.tensor([1e-3])])
    assert observer.calib_bin_edges[-1].item() == 2.0**-9
    assert observer.calib_hist[0].item() == 100


def test_all_zero_data_gives_the_smallest_scale() -> None:
    for make in HISTOGRAMS:
        assert observe_all(make(), [torch.zeros(10)]).scale().item() == np.float32(arithmetic.FLOAT32_EPS)


def test_histogram_state_is_a_few_kilobytes() -> None:
    observer = observe_all(CalibObserver(), batches(3))
    assert sum(b.numel() * b.element_size() for b in observer.buffers()) < 32_000


def test_percentile_clips_where_numpy_says() -> None:
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    observer = observe_all(PercentileObserver(percentile=99.0), list(x.split(10_000)))
    clip = observer.scale().item() * 127.5
    width = (observer.calib_bin_edges[1] - observer.calib_bin_edges[0]).item()
    assert abs(clip - np.percentile(x.abs().numpy(), 99.0)) < width


def test_percentile_100_is_min_max() -> None:
    data = batches(4)
    symmetric = torch.cat(data).abs().max()
    assert observe_all(PercentileObserver(percentile=100.0), data).scale().item() == np.float32(float(symmetric) / 127.5)


def real_error(x: np.ndarray, clip: float) -> float:
    """Mean squared error of quantizing the data itself."""
    scale = np.float32(clip / 127.5)
    return float(np.mean((arithmetic.dequantize(arithmetic.quantize(x, scale), scale) - x) ** 2))


@pytest.mark.parametrize("seed", range(3))
def test_mse_finds_the_best_clip_of_the_data_itself(seed: int) -> None:
    x = np.random.default_rng(seed).standard_t(4, 100_000).astype(np.float32)
    observer = observe_all(MSEObserver(), [torch.from_numpy(x)])
    largest = np.abs(x).max()
    errors = [real_error(x, largest * i / 100) for i in range(1, 101)]
    assert real_error(x, observer.scale().item() * 127.5) <= min(errors) * 1.02
    assert min(errors) < errors[-1] * 0.9  # clipping matters for these data


def test_mse_stride_takes_every_nth_candidate() -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_t(3, 50_000).astype(np.float32))
    clip = observe_all(MSEObserver(stride=7), [x]).scale().item() * 127.5
    candidate = clip / x.abs().max().item() * 100
    assert candidate == pytest.approx(round(candidate), abs=1e-3)
    assert (100 - round(candidate)) % 7 == 0


@pytest.mark.parametrize("shape", ["uniform", "normal", "spiked"])
def test_mix_takes_the_percentile_with_the_smallest_error(shape: str) -> None:
    generator = np.random.default_rng(0)
    x = (generator.uniform(-1, 1, 200_000) if shape == "uniform" else generator.normal(size=200_000)).astype(np.float32)
    if shape == "spiked":
        x[:100] = 30.0
    observer = observe_all(MixObserver(), [torch.from_numpy(x)])
    errors = {p: real_error(x, np.percentile(np.abs(x), p)) for p in observer.percentiles}
    assert real_error(x, observer.scale().item() * 127.5) <= min(errors.values()) * 1.05
    best = min(errors, key=errors.__getitem__)
    assert errors[observer.chosen] <= errors[best] * 1.05
    assert f"percentile={observer.chosen}" in repr(observer)


def test_mix_clips_where_clipping_pays_and_not_where_it_does_not() -> None:
    normal = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    spiked = normal.copy()
    spiked[:100] = 30.0
    chosen = []
    for x in (normal, spiked):
        observer = observe_all(MixObserver(), [torch.from_numpy(x)])
        observer.scale()
        chosen.append(observer.chosen)
    assert chosen[0] < 100.0
    assert chosen[1] == 100.0


def slow_divergence(weights: np.ndarray, stop: int, levels: int) -> float:
    """The definition, level by level."""
    kept = weights[:stop].copy()
    kept[-1] += weights[stop:].sum()
    quantized = np.zeros(len(weights))
    for level in range(levels):
        members = [i for i in range(stop) if min(i * levels // stop, levels - 1) == level]
        filled = [i for i in members if kept[i] > 0]
        for i in filled:
            quantized[i] = sum(kept[j] for j in members) / len(filled)
    p, q = weights / weights.sum(), quantized / quantized.sum()
    return float(sum(a * np.log(a / max(b, 1e-12)) for a, b in zip(p, q, strict=True) if a > 0))


def test_kl_divergence_equals_its_definition() -> None:
    from hqc.quantization.observers.kl import divergence

    weights = np.random.default_rng(0).integers(0, 50, 300).astype(np.float64)
    for stop in (128, 200, 300):
        assert divergence(weights, stop, 64) == pytest.approx(slow_divergence(weights, stop, 64), rel=1e-9)


def test_kl_clips_outliers_and_keeps_uniform_data() -> None:
    generator = np.random.default_rng(0)
    uniform = generator.uniform(-1, 1, 100_000).astype(np.float32)
    assert observe_all(KLObserver(), [torch.from_numpy(uniform)]).scale().item() * 127.5 > 0.97
    gauss = generator.normal(size=100_000).astype(np.float32)
    gauss[0] = 100.0
    clip = observe_all(KLObserver(), [torch.from_numpy(gauss)]).scale().item() * 127.5
    assert 3.0 < clip < 20.0


def test_kl_keeps_a_tail_that_holds_the_signal() -> None:
    """Most values small, a few percent far out: clipping them costs what the tensor carries (its first version clipped)."""
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.normal(0, 0.05, 200_000), generator.laplace(0, 1.0, 8_000)]).astype(np.float32)
    observer = observe_all(KLObserver(), [torch.from_numpy(x)])
    mse = observe_all(MSEObserver(), [torch.from_numpy(x)])
    assert real_error(x, observer.scale().item() * 127.5) < 4 * real_error(x, mse.scale().item() * 127.5)


@pytest.mark.parametrize("make", [MSEObserver, MixObserver, CalibObserver, KLObserver])
def test_observers_that_weigh_errors_search_the_powers_of_two(make: type[ObserverBase]) -> None:
    """Of the scales that bernoulli can have, none is better by more than a little than the one chosen; KL goes its own way."""
    for seed in range(4):
        generator = np.random.default_rng(seed)
        x = (generator.laplace(size=50_000) * 10.0 ** generator.uniform(-2, 1)).astype(np.float32)
        fake_quant = FakeQuantize(make, power_of_two=True)
        fake_quant.activation_post_process(torch.from_numpy(x))
        scale = float(arithmetic.power_of_two_scale(fake_quant.activation_post_process.scale().item()))
        if make is not KLObserver:
            errors = {2.0**-k: real_error(x, 2.0**-k * 127.5) for k in range(1, 15)}
            assert errors[scale] <= 1.05 * min(errors.values())


def test_the_largest_value_can_be_put_on_the_grid() -> None:
    """A clipped activation (ReLU6) has many values at its end, and the range of section 1 ends half a step beyond the grid."""
    x = torch.cat([torch.rand(1000) * 6, torch.full((4000,), 6.0)])
    for make in (MSEObserver, MixObserver):
        assert observe_all(make(), [x]).scale().item() == pytest.approx(6.0 / 127, rel=1e-6)


@pytest.mark.parametrize("power_of_two", [False, True])
def test_weights_take_the_scale_with_the_smallest_error(power_of_two: bool) -> None:
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-3, 0.1, 1, 0.3, 0]).view(
        -1, 1, 1, 1
    )
    observer = PerChannelMSEObserver(ch_axis=0)
    observer.power_of_two = power_of_two
    observer(weight)
    for channel in range(4):
        rows = weight[channel].flatten().numpy()
        chosen = float(observer.scale()[channel])
        widest = float(np.abs(rows).max()) / 127.5
        best = min(weight_error(rows, widest * share) for share in (127.5 / 127, 1.0, 0.97, 0.94, 0.91))
        if power_of_two:
            ruled = float(arithmetic.power_of_two_scale(widest))
            assert chosen in (ruled, ruled / 2) or widest < 2**-13
        else:
            assert weight_error(rows, chosen) <= best * (1 + 1e-5)
    assert float(observer.scale()[4]) >= float(observer.scale()[:4].max()) / 2  # an all-zero channel takes the largest
    again = observer.scale().clone()
    observer(weight * 2)
    assert not torch.equal(observer.scale(), again)


@pytest.mark.parametrize("change", ["computed anew", "data", "no_grad", "swapped"])
def test_the_scale_of_a_weight_follows_it_however_it_changes(change: str) -> None:
    """Memory is given out again, and `.data` is written without a new version: neither tells whether a weight is the same."""
    weight, observer = torch.nn.Parameter(torch.randn(4, 3, 3, 3)), PerChannelMSEObserver(ch_axis=0)
    for _ in range(3):
        observer(weight * 2 if change == "computed anew" else weight)
        before = observer.scale().clone()
        if change == "swapped":
            weight.data = weight.data * 1.5
        elif change == "data":
            weight.data.mul_(1.5)
        else:
            with torch.no_grad():
                weight.mul_(1.5)
        observer(weight * 2 if change == "computed anew" else weight)
        torch.testing.assert_close(observer.scale(), before * 1.5)


@pytest.mark.parametrize("shape", [(300, 1024), (1, 300_000), (150_000, 2), (7,)])
def test_weights_of_any_size_are_worked_on_in_blocks(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    whole = observe_all(PerChannelMSEObserver(ch_axis=0), [weight]).scale()
    assert whole.shape == shape[:1]
    for row in (0, shape[0] // 2, shape[0] - 1):
        torch.testing.assert_close(
            whole[row : row + 1], observe_all(PerChannelMSEObserver(ch_axis=0), [weight[row : row + 1]]).scale()
        )


def weight_error(rows: np.ndarray, scale: float) -> float:
    return float(((rows - np.clip(np.rint(rows / scale), -128, 127) * scale) ** 2).sum())


# --- refusals and state --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("make", [MinMaxObserver, MovingAverageMinMaxObserver, PerChannelMinMaxObserver, *HISTOGRAMS])
def test_not_finite_data_is_refused_by_name_and_leaves_no_trace(make: type[ObserverBase], bad: float) -> None:
    observer = make(name="conv3")
    good = torch.randn(2, 4)
    observer(good)
    before = observer.scale().clone()
    with pytest.raises(CalibrationError, match="conv3 contains NaN or infinity"):
        observer(torch.tensor([[1.0, bad], [0.0, 2.0]]))
    assert torch.equal(observer.scale(), before)


@pytest.mark.parametrize("make", [MinMaxObserver, PerChannelMinMaxObserver, *HISTOGRAMS, NoopObserver])
def test_scale_before_any_data_is_refused_by_name(make: type[ObserverBase]) -> None:
    observer = make(name="conv3")
    observer(torch.empty(0))
    assert not observer.calibrated
    with pytest.raises(CalibrationError, match="conv3"):
        observer.scale()


def test_noop_observer_takes_nothing() -> None:
    observer = NoopObserver()
    observer(torch.randn(3))
    assert not observer.calibrated
    assert list(observer.buffers()) == []


def test_fixed_scale_ignores_data_and_refuses_nonsense() -> None:
    observer = FixedScaleObserver(scale=0.5)
    observer(torch.randn(10) * 100)
    assert observer.scale().item() == 0.5
    with pytest.raises(QConfigError, match="positive and finite, got 0"):
        FixedScaleObserver(scale=0.0)
    with pytest.raises(QConfigError, match="zero point must be 0, got 3"):
        FixedScaleObserver(scale=0.1, zero_point=3)


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(QConfigError, match="percentile"):
        PercentileObserver(percentile=0)
    with pytest.raises(QConfigError, match="stride"):
        MSEObserver(stride=0)
    with pytest.raises(QConfigError, match="averaging_constant"):
        MovingAverageMinMaxObserver(averaging_constant=2.0)
    with pytest.raises(QConfigError, match="divisor of 2048"):
        KLObserver(bins=300)
    with pytest.raises(QConfigError, match="per tensor"):
        CalibObserver(ch_axis=0)


@pytest.mark.parametrize("make", [MinMaxObserver, PerChannelMinMaxObserver, MovingAverageMinMaxObserver, *HISTOGRAMS])
def test_statistics_survive_state_dict_and_deepcopy(make: type[ObserverBase]) -> None:
    observer = observe_all(make(), [torch.randn(3, 50)])
    loaded = make()
    loaded.load_state_dict(observer.state_dict())
    assert loaded.calibrated
    assert torch.equal(loaded.scale(), observer.scale())
    copied = copy.deepcopy(observer)
    more = torch.randn(3, 50) * 9
    for each in (observer, loaded, copied):
        each(more)
    assert torch.equal(loaded.scale(), observer.scale())
    assert torch.equal(copied.scale(), observer.scale())


@pytest.mark.parametrize("make", [MinMaxObserver, MovingAverageMinMaxObserver, *HISTOGRAMS])
def test_an_assigned_scale_is_answered_until_new_data(make: type[ObserverBase]) -> None:
    observer = make()
    observer.assign_scale(torch.tensor([0.0123]))
    assert observer.calibrated
    assert observer.scale().item() == pytest.approx(0.0123, rel=1e-6)


def test_observing_does_not_change_the_tensor_or_need_gradients() -> None:
    x = torch.randn(5, requires_grad=True)
    observer = MinMaxObserver()
    assert observer(x) is x
    assert not observer.min_val.requires_grad


@pytest.mark.parametrize("make", [MinMaxObserver, PerChannelMinMaxObserver, MovingAverageMinMaxObserver, *HISTOGRAMS])
def test_the_largest_numbers_have_a_finite_scale(make: type[ObserverBase]) -> None:
    """Masks are added as the least number of float32."""
    least = torch.finfo(torch.float32).min
    data = [torch.tensor([[least, 0.0, 1.0], [2.0, -1.0, 0.5]]), torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, least / 2]])]
    scale = observe_all(make(), data).scale()
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-32, 1e-10, 1.0, 1e10, 3.4e38])
def test_bins_are_those_of_float64_for_ranges_of_any_size(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    sample = (torch.rand(40_000, dtype=torch.float64, generator=generator) * scale).float()
    observer = MSEObserver()
    observer.observe(sample)
    edges = observer.calib_bin_edges.double()
    expected = (sample.double() / float(edges[1])).floor().clamp(max=BINS - 1).long().bincount(minlength=BINS)
    assert torch.equal(observer.calib_hist, expected)
