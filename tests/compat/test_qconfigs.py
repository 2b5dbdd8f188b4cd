"""Qconfigs, observers and states as the public manuals describe them."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from hqc.errors import AbsentNameError, CalibrationError, InputError, QConfigError
from hqc.march import March, set_march
from hqc.quantization import (
    FakeQuantize,
    FakeQuantState,
    LearnedScaleFakeQuantize,
    PACTFakeQuantize,
    QuantWrapper,
    convert_fx,
    default_weight_8bit_fake_quant,
    get_default_calib_qconfig,
    get_default_qat_qconfig,
    get_default_qconfig,
    get_qconfig,
    observer,
    observer_v2,
    observers,
    prepare_calibration_fx,
    prepare_qat_fx,
    qconfig,
    qinfo,
    qint16,
    set_fake_quantize,
)
from hqc.quantization.dtypes import dtype_name

X = torch.linspace(-2.0, 2.0, 64).reshape(1, 4, 4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.act = nn.ReLU()
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.conv(x)))


@pytest.fixture(autouse=True)
def _march() -> None:
    set_march(March.BAYES)
    torch.manual_seed(0)


# --- dtypes and marches ----------------------------------------------------------------------------------------------------------


def test_dtypes_are_their_names() -> None:
    assert qint16 == "qint16" and f"{qint16}" == "qint16" and dtype_name(qint16) == "qint16"
    assert tuple(qinfo(qint16))[1:] == (16, -32768, 32767)
    assert (qinfo("qint8").min, qinfo(torch.qint32).bits) == (-128, 32)
    with pytest.raises(QConfigError, match="qint4"):
        qinfo("qint4")


def test_marches_of_other_generations_are_named_in_the_refusal() -> None:
    assert March.Bayes is March.BAYES and March.Bernoulli2 is March.BERNOULLI2
    assert [march.name for march in March] == ["BERNOULLI", "BERNOULLI2", "BAYES", "BAYES_E"]
    with pytest.raises(AbsentNameError, match=r"March\.NASH_E is a march of the next chip generation.*March\.BAYES_E"):
        _ = March.NASH_E  # type: ignore[attr-defined]
    assert not hasattr(March, "NASH_M") and getattr(March, "B25", None) is None


# --- constants -------------------------------------------------------------------------------------------------------------------


CONSTANTS = [name for name in qconfig.__all__ if name.startswith("default_") and name.endswith("qconfig")]


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_is_what_its_name_says(name: str) -> None:
    config = getattr(qconfig, name)
    weight = config.weight()
    assert (weight.dtype, weight.ch_axis) == ("qint8", 0)
    if "32bit_out" in name or "_out_" in name:
        assert config.activation is None
        return
    activation = config.activation()
    assert activation.dtype == ("qint16" if "16bit_act" in name else "qint8")
    kinds = {"lsq": LearnedScaleFakeQuantize, "pact": PACTFakeQuantize}
    assert type(activation) is next((kind for key, kind in kinds.items() if key in name), FakeQuantize)
    watcher = activation.activation_post_process
    assert isinstance(watcher, observers.PercentileObserver) == name.startswith("default_calib")


def test_calibration_constants_can_be_switched() -> None:
    model = prepare_qat_fx(QuantWrapper(Net()), {"": qconfig.default_calib_8bit_fake_quant_qconfig}, example_inputs=X).eval()
    set_fake_quantize(model, FakeQuantState("calibration"))
    calibrating = model(X)
    set_fake_quantize(model, "validation")
    quantized = model(X)
    assert torch.allclose(calibrating, model.preparation.float_model(X), atol=1e-6)
    assert not torch.equal(quantized, calibrating) and torch.allclose(quantized, calibrating, atol=0.1)
    with pytest.raises(InputError, match="FakeQuantState"):
        set_fake_quantize(model, "calibrate")


def test_get_qconfig() -> None:
    config = get_qconfig(observer=observer_v2.MSEObserver, out_dtype=qint16)
    assert type(config.activation().activation_post_process) is observer_v2.MSEObserver
    assert config.activation().dtype == "qint16"
    assert get_qconfig(out_dtype=None).activation is None
    fixed = get_qconfig(observer=observer_v2.MinMaxObserver, fix_scale=True).activation()
    assert fixed.activation_post_process.averaging_constant == 0.0
    with pytest.raises(QConfigError, match=r"in_dtype='qint8'.*next chip generation"):
        get_qconfig(in_dtype="qint8")
    with pytest.raises(QConfigError, match="observer must be a class"):
        get_qconfig(observer="mse")


# --- keywords --------------------------------------------------------------------------------------------------------------------


DOCUMENTED = [
    (observer.MovingAverageMinMaxObserver, {"averaging_constant": 0.1, "is_sync_quantize": True, "factory_kwargs": None}),
    (observer.MovingAveragePerChannelMinMaxObserver, {"averaging_constant": 0.1, "ch_axis": 0, "quant_min": -128}),
    (observer.FixedScaleObserver, {"scale": 0.5, "zero_point": 0}),
    (observer.ClipObserver, {"xmin": -1.0, "xmax": 1.0}),
    (observer.ClipStdObserver, {"std_scale": 2.0}),
    (observer.PercentileObserver, {"percentile": 99.0, "bins": 2048, "averaging_constant": 0.01}),
    (observer.KLObserver, {"bins": 512, "update_interval": 2, "averaging_constant": 0.01}),
    (observer.MSEObserver, {"stride": 2, "averaging_constant": 0.01}),
    (observer.MixObserver, {"averaging_constant": 0.01}),
    (observer_v2.MinMaxObserver, {"averaging_constant": 0.01, "ch_axis": -1, "is_sync_quantize": False}),
    (observer_v2.HistogramObserver, {"bins": 2048, "qscheme": torch.per_tensor_symmetric}),
]


@pytest.mark.parametrize(("kind", "arguments"), DOCUMENTED)
def test_observers_take_the_documented_keywords(kind: type, arguments: dict[str, object]) -> None:
    watcher = kind(dtype="qint8", **arguments)
    watcher(torch.linspace(-3.0, 3.0, 1000).reshape(4, -1))
    scale = watcher.scale()
    assert bool((scale > 0).all())
    assert float(scale.max()) <= 0.5
    quantizer = FakeQuantize.with_args(observer=kind, **arguments)()
    assert isinstance(quantizer.activation_post_process, kind)


def test_unknown_keywords_are_refused_where_the_qconfig_is_made() -> None:
    with pytest.raises(QConfigError, match=r"no keyword 'averaging_const'; it takes .*; did you mean averaging_constant"):
        get_default_qat_qconfig(activation_qkwargs={"averaging_const": 0.1})
    with pytest.raises(QConfigError, match="no keyword 'percent'"):
        FakeQuantize.with_args(observer=observer.PercentileObserver, percent=99.0)
    with pytest.raises(QConfigError, match="no keyword 'percentile'"):  # a moving average has none
        get_default_qconfig(activation_qkwargs={"percentile": 99.0})


def test_an_averaging_constant_averages_over_batches() -> None:
    watcher = observer.PercentileObserver(percentile=100.0, averaging_constant=0.5)
    watcher(torch.tensor([0.0, 4.0]))
    watcher(torch.tensor([0.0, 8.0]))
    assert float(watcher.scale()) == pytest.approx(6.0 / 127.5)
    frozen = observer.MSEObserver(averaging_constant=0.0)
    frozen.assign_scale(torch.tensor([0.25]))
    frozen(torch.tensor([100.0]))
    assert float(frozen.scale()) == pytest.approx(0.25)


def test_clip_observers_leave_outliers_out() -> None:
    data = torch.cat([torch.linspace(-1.0, 1.0, 999), torch.tensor([50.0])])
    clip, deviations = observer.ClipObserver(xmax=2.0), observer.ClipStdObserver(std_scale=1.0)
    clip(data)
    deviations(data)
    assert float(clip.scale()) == pytest.approx(2.0 / 127.5)
    assert float(deviations.max_val) == pytest.approx(float(data.mean() + data.std(correction=0)))
    with pytest.raises(QConfigError, match="enclose 0"):
        observer.ClipObserver(xmin=1.0, xmax=2.0)


@pytest.mark.parametrize("name", ["min_max", "percentile", "mse", "kl", "mix", "clip", "clip_std", "fixed_scale"])
def test_weight_observers_work_per_channel(name: str) -> None:
    more = {"scale": [0.1] * 4} if name == "fixed_scale" else {}
    factory = get_default_qconfig(weight_observer=name, weight_qkwargs=more).weight
    weight = torch.randn(4, 300) * torch.tensor([0.1, 0.2, 0.3, 0.4]).view(-1, 1)
    quantizer = factory()
    quantizer.initialize(weight)
    rows = weight.abs().amax(1) / 127.5
    assert quantizer.scale.shape == (4,)
    if name != "fixed_scale":
        assert bool((quantizer.scale <= rows * (127.5 / 127 + 1e-6)).all()) and bool((quantizer.scale > 0.2 * rows).all())
    assert torch.equal(copy.deepcopy(quantizer)(weight), quantizer(weight))


def test_one_fixed_scale_serves_all_channels_and_a_wrong_number_is_refused() -> None:
    quantizer = FakeQuantize(observer=observer.FixedScaleObserver, scale=0.5, ch_axis=0)
    quantizer.initialize(torch.randn(3, 2))
    assert quantizer.scale.tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(QConfigError, match=r"3 channels.*2 entries"):
        FakeQuantize(observer=observer.FixedScaleObserver, scale=[0.5, 0.5], ch_axis=0).initialize(torch.randn(3, 2))


def test_saturate_says_whether_gradients_of_saturated_values_pass() -> None:
    gradients = []
    for saturate in (None, True, False):
        quantizer = FakeQuantize(saturate=saturate, in_place=True, compat_mask=False, channel_len=3)
        quantizer.set_qparams(0.01)
        quantizer.disable_observer()
        x = torch.tensor([0.5, 9.0], requires_grad=True)
        quantizer(x).sum().backward()
        gradients.append(x.grad.tolist())  # type: ignore[union-attr]
    assert gradients == [[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]]
    with pytest.raises(QConfigError, match="zero point must be 0"):
        FakeQuantize().set_qparams(0.1, 3)


def test_pact_learns_the_clip_from_what_saturates() -> None:
    quantizer = PACTFakeQuantize(alpha=1.0)
    assert float(quantizer.scale.detach()) == pytest.approx(1.0 / 127.5)
    quantizer(torch.tensor([0.3, -0.4])).sum().backward()
    assert float(quantizer.scale.grad) == 0.0  # type: ignore[arg-type]
    quantizer(torch.tensor([5.0])).sum().backward()
    assert float(quantizer.scale.grad) == pytest.approx(127.0)  # type: ignore[arg-type]
    with pytest.raises(QConfigError, match="alpha must be positive"):
        PACTFakeQuantize(alpha=0.0)


def test_lsq_takes_its_documented_keywords() -> None:
    plain = LearnedScaleFakeQuantize(scale=0.5, zero_point=0.0, use_grad_scaling=False)
    scaled = LearnedScaleFakeQuantize(scale=0.5)
    for quantizer in (plain, scaled):
        quantizer(torch.full((1, 4), 0.6)).sum().backward()
    assert float(plain.scale.grad) == pytest.approx(4 * -0.2, abs=1e-6)  # type: ignore[arg-type]
    assert float(scaled.scale.grad) == pytest.approx(-0.8 / (4 * 127) ** 0.5, abs=1e-6)  # type: ignore[arg-type]


def test_default_weight_fake_quant_is_per_channel() -> None:
    assert default_weight_8bit_fake_quant().ch_axis == 0


# --- scales travel ---------------------------------------------------------------------------------------------------------------


ACTIVATION_OBSERVERS = ["min_max", "absolute_min_max", "percentile", "kl", "mse", "mix", "clip", "clip_std"]


@pytest.mark.parametrize("name", [*ACTIVATION_OBSERVERS, "calibration model"])
@pytest.mark.parametrize("target", ["fake_quant", "lsq"])
def test_strict_loading_carries_the_scales_of_every_observer(name: str, target: str) -> None:
    wrapped = QuantWrapper(Net())
    if name == "calibration model":
        calibrated = prepare_calibration_fx(wrapped, {"": get_default_calib_qconfig()}, example_inputs=X).eval()
    else:
        config = get_default_qconfig(activation_observer=name, weight_observer="mse" if name == "mse" else "min_max")
        calibrated = prepare_qat_fx(wrapped, {"": config}, example_inputs=X).eval()
        set_fake_quantize(calibrated, FakeQuantState.CALIBRATION)
    calibrated(X)
    set_fake_quantize(calibrated, FakeQuantState.VALIDATION)
    buffer = io.BytesIO()
    torch.save(calibrated.state_dict(), buffer)
    buffer.seek(0)
    config = get_default_qconfig(activation_fake_quant=target)
    trained = prepare_qat_fx(wrapped, {"": config}, example_inputs=X).eval()
    trained.load_state_dict(torch.load(buffer))
    set_fake_quantize(trained, FakeQuantState.VALIDATION)
    assert torch.allclose(trained(X), calibrated(X), atol=1e-6)
    assert float((convert_fx(trained)(X) - trained(X).detach()).abs().max()) < 0.05


def test_a_state_that_knows_no_scales_leaves_them_unset() -> None:
    wrapped = QuantWrapper(Net())
    fresh = prepare_qat_fx(wrapped, {"": qconfig.default_calib_8bit_fake_quant_qconfig}, example_inputs=X).eval()
    model = prepare_qat_fx(wrapped, {"": get_default_qat_qconfig()}, example_inputs=X).eval()
    model.load_state_dict(fresh.state_dict())
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    with pytest.raises(CalibrationError, match="no scale yet"):
        model(X)


def test_calibration_models_of_switchable_qconfigs_begin_by_observing() -> None:
    config = qconfig.default_calib_8bit_fake_quant_qconfig
    model = prepare_calibration_fx(QuantWrapper(Net()), {"": config}, example_inputs=X).eval()
    assert torch.allclose(model(X), model.preparation.float_model(X), atol=1e-6)
