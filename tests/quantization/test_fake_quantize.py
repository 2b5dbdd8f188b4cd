"""Fake quants: state, statistics, persistence, printing, and what lowering reads from them."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from hqc import arithmetic
from hqc.errors import CalibrationError, InputError, QConfigError
from hqc.ir import DType
from hqc.march import get_spec
from hqc.quantization import (
    BoundaryFakeQuantize,
    CalibFakeQuantize,
    CalibObserver,
    FakeQuantize,
    FakeQuantState,
    FixedScaleObserver,
    LearnedScaleFakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    MSEObserver,
    NoopObserver,
    fake_quantize_state,
    get_default_qat_qconfig,
    get_default_qconfig,
    set_fake_quantize,
)
from hqc.quantization.fake_quantize import make_fake_quant, make_weight_fake_quant


def weight_fake_quant(weight: torch.Tensor) -> FakeQuantize:
    fake_quant = FakeQuantize(MovingAveragePerChannelMinMaxObserver, ch_axis=0)
    fake_quant.initialize(weight)
    return fake_quant


def expected_fake_quant(x: torch.Tensor, scale: float) -> torch.Tensor:
    q = arithmetic.quantize(x.numpy(), np.float32(scale))
    return torch.from_numpy(arithmetic.dequantize(q, np.float32(scale)))


# --- forward -----------------------------------------------------------------------------------------------------------


def test_first_batch_sets_the_scale_and_is_quantized_with_it() -> None:
    x = torch.randn(100)
    fake_quant = FakeQuantize()
    y = fake_quant(x)
    scale = arithmetic.scale_from_range(x.min(), x.max()).item()
    assert fake_quant.scale.item() == scale
    assert torch.equal(y, expected_fake_quant(x, scale))


def test_power_of_two_and_floor_of_bernoulli() -> None:
    x = torch.linspace(-1, 1, 1001)
    fake_quant = FakeQuantize(rounding="floor", power_of_two=True)
    y = fake_quant(x)
    assert fake_quant.scale.item() == 2.0**-6  # 1 / 127.5 = 0.0078 -> 2^-6: the range never shrinks
    assert torch.equal(y, (x * 64).floor() / 64)


def test_frozen_activation_keeps_the_calibrated_scale() -> None:
    qconfig = get_default_qconfig(activation_qkwargs={"averaging_constant": 0.0})
    fake_quant = qconfig.activation()
    fake_quant.assign_scale(torch.tensor([0.02]))
    fake_quant(torch.randn(100) * 50)
    assert fake_quant.scale.item() == pytest.approx(0.02, rel=1e-6)


def test_a_scale_carried_from_calibration_is_where_the_moving_average_starts() -> None:
    fake_quant = FakeQuantize(averaging_constant=0.5)
    fake_quant.assign_scale(torch.tensor([2.0 / 127.5]))
    assert fake_quant.activation_post_process.max_val.item() == pytest.approx(2.0, rel=1e-6)
    fake_quant(torch.tensor([-4.0, 4.0]))
    assert fake_quant.activation_post_process.max_val.item() == pytest.approx(3.0, rel=1e-6)
    assert fake_quant.scale.item() == pytest.approx(3.0 / 127.5, rel=1e-6)


@pytest.mark.parametrize("make", [FakeQuantize, LearnedScaleFakeQuantize])
def test_a_range_is_taken_over_across_dtypes_and_rules(make: type) -> None:
    calibrated = CalibFakeQuantize(power_of_two=True)
    calibrated(torch.tensor([-1.0, 3.0]))
    int16 = make(dtype="qint16")
    int16.take_over(calibrated)
    assert int16.quant_params().scale[0] == pytest.approx(3 / 32767.5, rel=1e-6)
    back = make(power_of_two=True)
    back.take_over(int16)
    assert back.quant_params().scale[0] == calibrated.quant_params().scale[0] == 2.0**-5
    fixed = make(observer=FixedScaleObserver, scale=0.5)
    fixed.take_over(calibrated)
    assert fixed.quant_params().scale[0] == 0.5


def test_histogram_observer_decides_once_when_calibration_ends() -> None:
    fake_quant = FakeQuantize(observer=MSEObserver)
    fake_quant.set_state(FakeQuantState.CALIBRATION)
    chosen = []
    fake_quant.activation_post_process._chosen_clip = lambda: chosen.append(1) or 1.275
    for _ in range(5):
        fake_quant(torch.randn(10))
    assert chosen == []
    fake_quant.set_state(FakeQuantState.VALIDATION)
    fake_quant(torch.randn(10))
    fake_quant(torch.randn(10))
    assert chosen == [1]
    assert fake_quant.scale.item() == pytest.approx(0.01, rel=1e-6)


def test_empty_batches_are_harmless() -> None:
    fake_quant = FakeQuantize()
    fake_quant(torch.randn(3, 4))
    before = fake_quant.scale.clone()
    assert fake_quant(torch.empty(0, 4)).shape == (0, 4)
    assert torch.equal(fake_quant.scale, before)


def test_results_are_deterministic() -> None:
    x = torch.randn(1000)
    first, second = FakeQuantize(), FakeQuantize()
    assert torch.equal(first(x), second(x))
    assert torch.equal(first.scale, second.scale)


def test_training_converges_through_a_fake_quant() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 8))
    target = torch.randn(8, 8)
    fake_quant = weight_fake_quant(weight)
    optimizer = torch.optim.SGD([weight], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        (fake_quant(weight) - target).square().sum().backward()
        optimizer.step()
    assert (fake_quant(weight) - target).abs().max() < 2 * fake_quant.scale.max()  # up to where rounding oscillates


@pytest.mark.parametrize("observer", [MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver, CalibObserver])
@pytest.mark.parametrize("make", [FakeQuantize, CalibFakeQuantize, LearnedScaleFakeQuantize])
def test_what_begins_in_inference_mode_goes_on_outside(make: type, observer: type) -> None:
    axis = {"ch_axis": 0} if observer is MovingAveragePerChannelMinMaxObserver else {}
    fake_quant = make(observer=observer, **axis)
    with torch.inference_mode():
        fake_quant(torch.randn(3, 50))
    x = torch.randn(3, 50, requires_grad=True)
    fake_quant(x).sum().backward()
    copy.deepcopy(fake_quant).load_state_dict(fake_quant.state_dict())
    assert x.grad.abs().sum() > 0


# --- state -------------------------------------------------------------------------------------------------------------


def model() -> nn.Module:
    return nn.Sequential(FakeQuantize(), nn.ReLU(), FakeQuantize(), BoundaryFakeQuantize(FakeQuantize()))


def test_train_and_eval_never_change_the_state() -> None:
    net = model()
    set_fake_quantize(net, FakeQuantState.VALIDATION)
    net.train()
    net.eval()
    assert fake_quantize_state(net) is FakeQuantState.VALIDATION


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("state", list(FakeQuantState))
def test_states_decide_alone_whether_values_are_quantized_and_observed(state: FakeQuantState, training: bool) -> None:
    fake_quant = FakeQuantize(averaging_constant=1.0).train(training)
    fake_quant(torch.tensor([-1.0, 1.0]))
    before = fake_quant.scale.item()
    fake_quant.set_state(state)
    x = torch.tensor([-2.0, 0.123, 2.0])
    y = fake_quant(x)
    assert torch.equal(y, x) is not state.quantizes
    assert (fake_quant.calculate_qparams()[0].item() == before) is not state.observes


def test_state_is_remembered_by_state_dict_deepcopy_and_pickle() -> None:
    net = model()
    net(torch.randn(4))
    for state in FakeQuantState:
        set_fake_quantize(net, state)
        fresh = model()
        fresh.load_state_dict(net.state_dict())
        for each in (fresh, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert fake_quantize_state(each) is state
            x = torch.randn(4)
            assert torch.equal(copy.deepcopy(each)(x), copy.deepcopy(net)(x))


def test_single_switches_leave_the_model_without_a_state() -> None:
    net = model()
    net[0].disable_fake_quant()
    net[0].disable_observer()
    assert net[0].state is None
    assert fake_quantize_state(net) is None
    assert net[0].fake_quant_enabled.item() == 0


def test_set_fake_quantize_refuses_what_is_no_state() -> None:
    with pytest.raises(InputError, match=r"FakeQuantState\.QAT, FakeQuantState\.CALIBRATION"):
        set_fake_quantize(model(), "training")


def test_fixed_scale_switches_observing_off_for_good() -> None:
    fake_quant = FakeQuantize(observer=FixedScaleObserver, scale=0.5)
    fake_quant(torch.randn(10) * 1000)
    assert fake_quant.scale.item() == 0.5
    assert fake_quant.observer_enabled.item() == 0
    fake_quant.set_state(FakeQuantState.CALIBRATION)
    assert fake_quant.observer_enabled.item() == 0
    assert fake_quant.quant_params().fixed


def test_fix_scale_fixes_an_existing_fake_quant() -> None:
    fake_quant = FakeQuantize()
    fake_quant(torch.randn(5))
    fake_quant.fix_scale(0.25)
    fake_quant(torch.randn(5) * 100)
    assert fake_quant.quant_params() == (np.float32([0.25]), "qint8", None, True)
    with pytest.raises(QConfigError, match=r"scale of 2\^-1"):
        FakeQuantize(power_of_two=True).fix_scale(0.3)


# --- persistence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copying", ["state_dict", "deepcopy", "pickle", "torch.save"])
def test_everything_survives_copying(copying: str, tmp_path) -> None:
    weight = torch.randn(6, 3)
    net = nn.ModuleList([FakeQuantize(), weight_fake_quant(weight), FakeQuantize(observer=CalibObserver), CalibFakeQuantize()])
    for fake_quant in (net[0], net[2], net[3]):
        fake_quant(torch.randn(50))
    if copying == "state_dict":
        fresh = nn.ModuleList(
            [
                FakeQuantize(),
                FakeQuantize(MovingAveragePerChannelMinMaxObserver, ch_axis=0),
                FakeQuantize(observer=CalibObserver),
                CalibFakeQuantize(),
            ]
        )
        fresh.load_state_dict(net.state_dict())
    elif copying == "deepcopy":
        fresh = copy.deepcopy(net)
    elif copying == "pickle":
        fresh = pickle.loads(pickle.dumps(net))
    else:
        torch.save(net, tmp_path / "model.pt")
        fresh = torch.load(tmp_path / "model.pt", weights_only=False)
    for old, new in zip(net, fresh, strict=True):
        assert new.calibrated
        assert torch.equal(old.calculate_qparams()[0], new.calculate_qparams()[0])
    x = torch.randn(50) * 3
    for old, new in zip(net, fresh, strict=True):
        value = weight if old is net[1] else x
        assert torch.equal(old(value), new(value))
        assert torch.equal(old.calculate_qparams()[0], new.calculate_qparams()[0])


def test_state_dict_of_an_uncalibrated_fake_quant_loads() -> None:
    fresh = FakeQuantize()
    fresh.load_state_dict(FakeQuantize().state_dict())
    assert not fresh.calibrated


# --- printing ----------------------------------------------------------------------------------------------------------


def test_prints_as_the_guide_does() -> None:
    fake_quant = FakeQuantize()
    fake_quant.assign_scale(torch.tensor([0.9995 / 127.5]))
    assert repr(fake_quant) == (
        "FakeQuantize(\n"
        "  fake_quant_enabled=tensor([1], dtype=torch.uint8), observer_enabled=tensor([1], dtype=torch.uint8), quant_min=-128, "
        "quant_max=127, dtype=qint8, qscheme=torch.per_tensor_symmetric, ch_axis=-1, scale=tensor([0.0078]), "
        "zero_point=tensor([0])\n"
        "  (activation_post_process): MovingAverageMinMaxObserver(min_val=tensor([-0.9995]), max_val=tensor([0.9995]))\n"
        ")"
    )


def test_prints_weights_as_the_guide_does() -> None:
    low, high = [-0.4881, -0.4944, 0.0787], [-0.1213, 0.5284, 0.1981]
    assert repr(weight_fake_quant(torch.tensor([low, high]).T.contiguous())) == (
        "FakeQuantize(\n"
        "  fake_quant_enabled=tensor([1], dtype=torch.uint8), observer_enabled=tensor([1], dtype=torch.uint8), quant_min=-128, "
        "quant_max=127, dtype=qint8, qscheme=torch.per_channel_symmetric, ch_axis=0, scale=tensor([0.0038, 0.0041, 0.0016]), "
        "zero_point=tensor([0, 0, 0])\n"
        "  (activation_post_process): MovingAveragePerChannelMinMaxObserver(min_val=tensor([-0.4881, -0.4944,  0.0787]), "
        "max_val=tensor([-0.1213,  0.5284,  0.1981]))\n"
        ")"
    )


def test_calibration_prints_as_the_guide_does() -> None:
    assert repr(CalibFakeQuantize()) == (
        "CalibFakeQuantize(\n"
        "  (activation_post_process): CalibObserver(CalibObserver() calib_bin_edges=tensor([]) calib_hist=tensor([]))\n"
        ")"
    )
    assert repr(CalibFakeQuantize(NoopObserver)) == "CalibFakeQuantize(\n  (activation_post_process): NoopObserver()\n)"
    assert repr(BoundaryFakeQuantize(nn.Identity())) == (
        "_WrappedCalibFakeQuantize(\n  (activation_post_process): Identity()\n)"
    )


# --- calibration -------------------------------------------------------------------------------------------------------


def test_calibration_fake_quant_changes_nothing_and_finds_a_scale() -> None:
    fake_quant = CalibFakeQuantize()
    x = torch.randn(1000)
    assert fake_quant(x) is x
    assert 0 < fake_quant.quant_params().scale[0] <= np.nextafter(float(x.abs().max()) / 127, np.inf, dtype=np.float32)
    set_fake_quantize(fake_quant, FakeQuantState.QAT)
    assert fake_quant(x) is x  # a calibration model always calibrates


def test_calibration_on_bernoulli_gives_power_of_two_scales() -> None:
    fake_quant = CalibFakeQuantize(power_of_two=True)
    fake_quant(torch.rand(1000))
    assert fake_quant.quant_params().scale[0] in (2.0**-7, 2.0**-6)


# --- lowering ----------------------------------------------------------------------------------------------------------


def test_quant_params_for_lowering() -> None:
    activation = FakeQuantize(dtype="qint16")
    activation(torch.tensor([-1.0, 2.0]))
    scale, dtype, axis, fixed = activation.quant_params()
    assert (scale.dtype, scale.tolist(), dtype, axis, fixed) == (np.float32, [np.float32(2 / 32767.5)], "qint16", None, False)
    assert activation.ir_quant().dtype is DType.INT16
    weight = weight_fake_quant(torch.randn(4, 2)).ir_quant()
    assert (weight.axis, weight.scale.shape, weight.dtype) == (0, (4,), DType.INT8)


@pytest.mark.parametrize("make", [FakeQuantize, CalibFakeQuantize, LearnedScaleFakeQuantize])
def test_an_uncalibrated_fake_quant_refuses_to_be_lowered(make: type) -> None:
    fake_quant = make(name="conv1")
    assert not fake_quant.calibrated
    with pytest.raises(CalibrationError, match="conv1 has no scale yet"):
        fake_quant.quant_params()


# --- construction ------------------------------------------------------------------------------------------------------


def test_factories_are_equal_by_content_and_extend() -> None:
    factory = FakeQuantize.with_args(observer=MovingAverageMinMaxObserver)
    assert factory == FakeQuantize.with_args(observer=MovingAverageMinMaxObserver)
    assert factory != factory.with_args(averaging_constant=0.5)
    assert pickle.loads(pickle.dumps(factory)) == factory
    assert factory.with_args(averaging_constant=0.5)().activation_post_process.averaging_constant == 0.5
    assert FakeQuantize.with_args(dtype=torch.qint8)().dtype == "qint8"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "quint8"}, "use one of: qint8, qint16"),
        ({"quant_min": -127}, "saturates qint8 at -128 and 127"),
        ({"qscheme": torch.per_tensor_affine}, "symmetrically"),
        ({"qscheme": torch.per_channel_symmetric}, "ch_axis=-1"),
        ({"rounding": "up"}, "half_even, half_away, half_up, floor"),
        ({"observer": lambda **_: nn.Identity()}, "must be an hqc observer, got Identity"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(QConfigError, match=message):
        FakeQuantize(**arguments)


def test_march_gives_rounding_and_scale_rule_and_refuses_dtypes_it_lacks() -> None:
    bernoulli = make_fake_quant(get_default_qat_qconfig().activation, get_spec("bernoulli"), name="conv")
    assert (bernoulli.rounding, bernoulli.power_of_two, bernoulli.name) == ("floor", True, "conv")
    int16 = get_default_qat_qconfig(dtype="qint16").activation
    assert make_fake_quant(int16, get_spec("bayes")).dtype == "qint16"
    for march in ("bernoulli", "bernoulli2"):
        with pytest.raises(QConfigError, match=f"conv asks for qint16, which {march} does not have; it has qint8"):
            make_fake_quant(int16, get_spec(march), name="conv")


def test_weight_fake_quant_starts_from_the_weights_on_the_layers_channel_axis() -> None:
    weight = torch.randn(3, 5, 2, 2)
    fake_quant = make_weight_fake_quant(get_default_qat_qconfig().weight, get_spec("bayes"), weight, 1)
    assert fake_quant.scale.shape == (5,)
    assert torch.equal(fake_quant.activation_post_process.max_val, weight.amax((0, 2, 3)))
    per_tensor = FakeQuantize.with_args(observer=MovingAverageMinMaxObserver)
    assert make_weight_fake_quant(per_tensor, get_spec("bayes"), weight, 1).scale.shape == (1,)
    with pytest.raises(QConfigError, match="weights are qint8"):
        make_weight_fake_quant(per_tensor.with_args(dtype="qint16"), get_spec("bayes"), weight, 1)


def test_a_missing_or_foreign_qconfig_entry_is_refused() -> None:
    with pytest.raises(QConfigError, match="no entry"):
        make_fake_quant(None, get_spec("bayes"), name="conv")
    with pytest.raises(QConfigError, match="makes a Identity"):
        make_fake_quant(lambda **_: nn.Identity(), get_spec("bayes"))


# --- learned scale -----------------------------------------------------------------------------------------------------


def test_lsq_starts_as_the_paper_says() -> None:
    x = torch.randn(10, 20)
    fake_quant = LearnedScaleFakeQuantize()
    fake_quant(x)
    assert fake_quant.scale.item() == pytest.approx(2 * x.abs().mean().item() / 127**0.5, rel=1e-5)


def test_lsq_gradients_are_the_papers() -> None:
    x = torch.tensor([[-1000.0, -0.3, 0.26, 0.74, 1000.0]], requires_grad=True)
    fake_quant = LearnedScaleFakeQuantize()
    fake_quant.assign_scale(torch.tensor([0.5]))
    incoming = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    fake_quant(x).backward(incoming)
    assert x.grad.tolist() == [[0.0, 2.0, 3.0, 4.0, 0.0]]
    to_scale = 1 * -128 + 2 * (-1 + 0.6) + 3 * (1 - 0.52) + 4 * (1 - 1.48) + 5 * 127
    assert fake_quant.scale.grad.item() == pytest.approx(to_scale / (5 * 127) ** 0.5, rel=1e-5)


def test_lsq_per_channel_sums_each_channels_gradient() -> None:
    weight = torch.randn(3, 4, requires_grad=True)
    fake_quant = LearnedScaleFakeQuantize(MovingAveragePerChannelMinMaxObserver, ch_axis=0)
    fake_quant.initialize(weight)
    fake_quant(weight).sum().backward()
    whole = fake_quant.scale.grad
    for channel in range(3):
        alone = LearnedScaleFakeQuantize()
        alone.assign_scale(fake_quant.scale[channel : channel + 1])
        row = weight.detach()[channel : channel + 1].requires_grad_()
        alone(row).sum().backward()
        assert whole[channel].item() == pytest.approx(alone.scale.grad.item(), rel=1e-5)


def test_lsq_learns_a_better_scale() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4000)
    fake_quant = LearnedScaleFakeQuantize()
    fake_quant.assign_scale(torch.tensor([0.002]))  # far too fine: most values saturate
    optimizer = torch.optim.SGD([fake_quant.scale], lr=1e-4)
    before = (fake_quant(x) - x).square().mean().item()
    for _ in range(200):
        optimizer.zero_grad()
        (fake_quant(x) - x).square().sum().backward()
        optimizer.step()
    assert (fake_quant(x) - x).square().mean().item() < before / 100


def test_lsq_deploys_a_positive_scale_and_a_power_of_two_on_bernoulli() -> None:
    fake_quant = LearnedScaleFakeQuantize(power_of_two=True)
    fake_quant.assign_scale(torch.tensor([-0.3]))
    assert fake_quant.quant_params().scale.tolist() == [0.5]
    y = fake_quant(torch.tensor([[0.6, 1.3]], requires_grad=True))
    assert y.tolist() == [[0.5, 1.5]]


def test_lsq_takes_over_the_range_of_calibration() -> None:
    fake_quant = LearnedScaleFakeQuantize()
    fake_quant.set_state(FakeQuantState.CALIBRATION)
    x = torch.tensor([[-1.0, 1.0]])
    assert torch.equal(fake_quant(x), x)
    fake_quant.set_state(FakeQuantState.QAT)
    fake_quant(x * 7)
    assert fake_quant.scale.item() == pytest.approx(1 / 127.5, rel=1e-6)


def test_lsq_survives_state_dict_before_and_after_the_first_batch() -> None:
    make = lambda: LearnedScaleFakeQuantize(MovingAveragePerChannelMinMaxObserver, ch_axis=0)  # noqa: E731
    source = make()
    fresh = make()
    fresh.load_state_dict(source.state_dict())
    assert not fresh.calibrated
    source.initialize(torch.randn(3, 4))
    fresh.load_state_dict(source.state_dict())
    assert fresh.calibrated
    assert torch.equal(fresh.scale, source.scale)
    assert isinstance(fresh.scale, nn.Parameter)
