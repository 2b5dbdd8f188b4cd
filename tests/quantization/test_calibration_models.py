"""Calibration models: they quantize in VALIDATION, convert, and hand their scales on strictly; scales that were never set are errors."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hqc.errors import CalibrationError, InputError
from hqc.march import March
from hqc.march import state as march_state
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import (
    FakeQuantize,
    FakeQuantState,
    LearnedScaleFakeQuantize,
    MinMaxObserver,
    convert_fx,
    fake_quantize_state,
    get_default_calib_qconfig,
    get_default_lsq_qconfig,
    get_default_qat_qconfig,
    get_default_qconfig,
    load_observer_params,
    prepare_calibration_fx,
    prepare_qat_fx,
    set_fake_quantize,
)
from hqc.quantization.calib_fake_quantize import CalibFakeQuantize
from hqc.quantization.fake_quantize import fake_quants
from hqc.utils.onnx_helper import export_to_onnx
from hqc.workflow.states import canonical

OBSERVERS = ("min_max", "absolute_min_max", "percentile", "kl", "mse", "mix", "calib")
X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """A convolution, a CPU operation between BPU operations (so that there are boundary fake quants), and an add."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.first, self.act, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.SELU(), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.selu(torch.relu(self.first(self.quant(x))))
        return self.dequant(self.last(y + y))


@pytest.fixture(autouse=True)
def march(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(march_state, "_current", March.BAYES)


def calibrating(observer: str, model: nn.Module | None = None) -> Any:
    qconfig = get_default_qconfig("calib", "calib", observer, "noop")
    return prepare_calibration_fx(model or Net(), {"": qconfig}, hybrid=True, example_inputs=X[:1]).eval()


def calibrated(observer: str, model: nn.Module | None = None) -> Any:
    prepared = calibrating(observer, model)
    with torch.no_grad():
        prepared(X)
    return prepared


@pytest.mark.parametrize("observer", OBSERVERS)
def test_in_validation_it_quantizes_and_converts_to_the_same(observer: str) -> None:
    model, network = calibrated(observer), Net().eval()
    with torch.no_grad():
        floats = network(X)
        assert torch.equal(model(X), floats)
        set_fake_quantize(model, FakeQuantState.VALIDATION)
        assert fake_quantize_state(model) is FakeQuantState.VALIDATION
        before = copy.deepcopy(model.state_dict())
        quantized = model(X)
        assert not torch.equal(quantized, floats)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        step = model.last.activation_post_process.calculate_qparams()[0].item()
        assert ((convert_fx(model)(X) - quantized).abs() / step).round().max() <= 1
        set_fake_quantize(model, FakeQuantState.CALIBRATION)
        assert torch.equal(model(X), floats)


@pytest.mark.parametrize(
    "wanted", [get_default_qat_qconfig(), get_default_lsq_qconfig(), get_default_qconfig(activation_observer="kl")]
)
@pytest.mark.parametrize("observer", OBSERVERS)
def test_its_state_dict_loads_strictly_into_a_qat_model(observer: str, wanted: Any) -> None:
    trained = Net()
    with torch.no_grad():
        trained.first.weight.mul_(3.0)
    source = calibrated(observer, trained)
    target = prepare_qat_fx(Net(), {"": wanted}, hybrid=True, example_inputs=X[:1])
    keys = set(target.state_dict())
    target.load_state_dict(source.state_dict(), strict=True)
    assert set(target.state_dict()) == keys
    assert torch.equal(target.first.weight, trained.first.weight)
    scales = {canonical(name): each.unrounded_scale() for name, each in fake_quants(source) if "weight" not in name}
    for name, each in fake_quants(target):
        if "weight" not in name:
            assert torch.allclose(each.calculate_qparams()[0], scales[canonical(name)], rtol=1e-6), name
    wide = target.first.weight_fake_quant.calculate_qparams()[0]
    assert torch.allclose(wide, trained.first.weight.abs().amax((1, 2, 3)) / 127.5)
    set_fake_quantize(target, FakeQuantState.VALIDATION)
    set_fake_quantize(source, FakeQuantState.VALIDATION)
    with torch.no_grad():
        assert torch.allclose(target.eval()(X), source(X), atol=1e-5)


def test_strict_loading_still_names_what_does_not_fit() -> None:
    source = calibrated("calib").state_dict()
    target = prepare_qat_fx(Net(), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=X[:1])
    broken = {key: value for key, value in source.items() if not key.startswith("quant.")}
    with pytest.raises(RuntimeError, match=r"quant.activation_post_process.scale"):
        target.load_state_dict(broken)
    with pytest.raises(RuntimeError, match="somewhere"):
        target.load_state_dict({**source, "somewhere.activation_post_process.reach": torch.ones(1)})


def test_its_own_state_comes_back() -> None:
    source, target = calibrated("mix"), calibrating("mix")
    target.load_state_dict(source.state_dict())
    set_fake_quantize(source, FakeQuantState.VALIDATION)
    set_fake_quantize(target, FakeQuantState.VALIDATION)
    with torch.no_grad():
        assert torch.equal(source(X), target(X))


def test_load_observer_params_takes_scales_only() -> None:
    source = calibrated("mse")
    target = prepare_qat_fx(Net(), {"": get_default_qat_qconfig("qint8")}, hybrid=True, example_inputs=X[:1])
    with torch.no_grad():
        target.first.weight.zero_()
    taken = load_observer_params(source, target)
    assert "quant.activation_post_process" in taken and not any("weight" in name for name in taken)
    assert not target.first.weight.any()
    found = dict(fake_quants(source))["quant.activation_post_process"].calculate_qparams()[0]
    assert torch.allclose(target.quant.activation_post_process.scale, found)
    with pytest.raises(CalibrationError, match="never calibrated"):
        load_observer_params(calibrating("mse"), target)
    with pytest.raises(InputError, match="no activation fake quant of the same name"):
        load_observer_params(nn.ReLU(), target)


@pytest.mark.parametrize("make", ["calibration", "qat", "lsq"])
def test_a_scale_that_was_never_set_is_an_error_and_not_1(make: str) -> None:
    qconfig = {"calibration": get_default_calib_qconfig, "qat": get_default_qat_qconfig, "lsq": get_default_lsq_qconfig}[make]()
    prepare = prepare_calibration_fx if make == "calibration" else prepare_qat_fx
    model = prepare(Net(), {"": qconfig}, hybrid=True, example_inputs=X[:1]).eval()
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    with torch.no_grad(), pytest.raises(CalibrationError, match=r"quant has no scale yet"):
        model(X)
    with pytest.raises(CalibrationError, match="no scale yet"):
        convert_fx(model)


def test_learned_weight_scales_start_from_the_weights_ranges() -> None:
    model = prepare_qat_fx(Net(), {"": get_default_lsq_qconfig()}, hybrid=True, example_inputs=X[:1])
    expected = model.first.weight.detach().abs().amax((1, 2, 3)) / 127.5
    assert torch.allclose(model.first.weight_fake_quant.scale, expected)


# --- groups ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FakeQuantize, CalibFakeQuantize, LearnedScaleFakeQuantize])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_widest_member_of_a_group_decides(kind: Any, order: tuple[int, int]) -> None:
    group: list[Any] = []
    members = [kind(observer=MinMaxObserver) for _ in range(2)]
    for member in members:
        member.join(group)
    data = (torch.linspace(-1, 1, 50), torch.linspace(-4, 4, 50))
    set_fake_quantize(nn.ModuleList(members), FakeQuantState.CALIBRATION)
    for index in order:
        members[index](data[index])
    set_fake_quantize(nn.ModuleList(members), FakeQuantState.VALIDATION)
    for index, member in enumerate(members):
        quantized = member(data[index])
        assert torch.equal(member.calculate_qparams()[0], torch.tensor([4 / 127.5]))
        assert (quantized - data[index]).abs().max() <= 2 / 127.5 + 1e-6
    twins = copy.deepcopy(nn.ModuleList(members))
    twins[0].assign_scale(torch.tensor([1.0]))
    assert twins[1].calculate_qparams()[0] == 1.0 and members[1].calculate_qparams()[0] == torch.tensor(4 / 127.5)


def test_a_fixed_scale_fixes_its_group() -> None:
    group: list[Any] = []
    fixed, free = FakeQuantize(), FakeQuantize(observer=MinMaxObserver)
    fixed.fix_scale(0.5)
    for member in (fixed, free):
        member.join(group)
    free(torch.full((3,), 1000.0))
    assert free.calculate_qparams()[0] == 0.5 and free.scale_info().fixed


# --- export right after prepare ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["calibration", "qat", "lsq"])
def test_export_right_after_prepare_sets_scales_in_a_copy_and_says_so(
    form: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    qconfig = {"calibration": get_default_calib_qconfig, "qat": get_default_qat_qconfig, "lsq": get_default_lsq_qconfig}[form]()
    prepare = prepare_calibration_fx if form == "calibration" else prepare_qat_fx
    model = prepare(Net(), {"": qconfig}, hybrid=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = fake_quantize_state(model)
    report = export_to_onnx(model, X[:1], tmp_path / "net.onnx")
    assert report.executed and report.comparisons
    assert "their scales in the file come from the given inputs" in caplog.text
    assert fake_quantize_state(model) is state and not any(
        each.calibrated for name, each in fake_quants(model) if "weight" not in name
    )
    after = model.state_dict()
    assert list(after) == list(before) and all(torch.equal(value, before[key]) for key, value in after.items())
