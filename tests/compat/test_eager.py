"""Eager mode is the plan of FX mode: same layers, same results; in place it is the user's object."""

from __future__ import annotations

import copy
import io
import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hqc.errors import InputError, QConfigError, SupportError, TraceError
from hqc.march import March, set_march
from hqc.nn.qat import ConvAddReLU2d, ConvBnAddReLU2d
from hqc.quantization import (
    FakeQuantize,
    FakeQuantState,
    QATMode,
    convert,
    fuse_known_modules,
    fuse_modules,
    get_default_calib_qconfig,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    get_qat_mode,
    prepare_calibration,
    prepare_qat,
    prepare_qat_fx,
    set_fake_quantize,
    set_qat_mode,
)
from hqc.workflow.prepared import ObservedGraphModule
from tests.compat.networks import ByShape, Residual

X = torch.linspace(-1.0, 1.0, 2 * 3 * 12 * 12).reshape(2, 3, 12, 12)
FUSED = ["block.conv", "block.bn", "block.add", "block.relu"]


@pytest.fixture(autouse=True)
def _march() -> None:
    set_march(March.BERNOULLI2)
    torch.manual_seed(0)


def configured(kind: type[nn.Module] = Residual) -> nn.Module:
    model = kind().eval()
    model.qconfig = get_default_qat_qconfig()  # type: ignore[assignment]
    if isinstance(model, Residual):
        model.head.qconfig = get_default_qat_out_qconfig()  # type: ignore[assignment]
    return model


def test_eager_and_fx_mode_prepare_the_same_model() -> None:
    model = configured()
    fused = fuse_modules(model, FUSED)
    eager, fx_mode = prepare_qat(fused).eval(), prepare_qat_fx(model, hybrid=False).eval()
    assert nn.Module.__repr__(eager) == nn.Module.__repr__(fx_mode)
    assert str(eager.code) == str(fx_mode.code)
    assert torch.equal(eager(X), fx_mode(X))
    assert isinstance(model.block, nn.Module) and not isinstance(model, ObservedGraphModule)


def test_in_place_the_object_itself_is_prepared_and_converted() -> None:
    model = configured()
    expected = model(X)
    fuse_modules(model, FUSED, inplace=True)
    assert prepare_qat(model, inplace=True) is model
    assert isinstance(model, Residual) and isinstance(model, ObservedGraphModule)
    assert model.describe() == "4 classes" and model.block.note == "kept"
    assert type(model.block.add) is ConvAddReLU2d
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    model.train()
    model(X).square().sum().backward()
    optimizer.step()
    model.eval()
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    trained = model(X).detach()
    assert torch.allclose(trained, expected, atol=0.05)
    assert convert(model, inplace=True) is model
    assert isinstance(model, Residual) and model.describe() == "4 classes"
    assert torch.allclose(model(X), trained, atol=0.02)


def test_prepared_eager_models_can_be_copied_and_saved() -> None:
    model = prepare_qat(configured()).eval()
    expected = model(X)
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert isinstance(twin, Residual) and twin.describe() == "4 classes"
        assert torch.allclose(twin(X), expected, atol=1e-6)


def test_calibration_then_training() -> None:
    model = Residual().eval()
    model.qconfig = get_default_calib_qconfig()  # type: ignore[assignment]
    calibrated = prepare_calibration(model).eval()
    calibrated(X)
    calibrated.qconfig = get_default_qat_qconfig()  # type: ignore[assignment]
    trained = prepare_qat(calibrated).eval()
    assert type(trained.stem.weight_fake_quant) is FakeQuantize
    scale = trained.stem.activation_post_process.scale
    assert torch.allclose(scale, calibrated.stem.activation_post_process.calculate_qparams()[0])


@pytest.mark.parametrize("mode", [QATMode.WithBN, QATMode.WithBNReverseFold])
def test_modes_keep_the_batch_norm(mode: str) -> None:
    try:
        set_qat_mode(mode)
        assert get_qat_mode() == mode
        model = prepare_qat(configured()).train()
    finally:
        set_qat_mode(QATMode.FuseBN)
    layer = model.block.add
    assert type(layer) is ConvBnAddReLU2d
    before = layer.bn.running_mean.clone()
    model(X)
    assert not torch.equal(layer.bn.running_mean, before)
    converted = convert(model.eval())
    assert torch.allclose(converted(X), model(X), atol=0.05)
    with pytest.raises(InputError, match="unknown QAT mode 'with_b'; did you mean with_bn"):
        set_qat_mode("with_b")


def test_a_model_that_needs_shapes_is_planned_at_its_first_forward(caplog: pytest.LogCaptureFixture) -> None:
    model = configured(ByShape)
    prepare_qat(model, inplace=True)
    assert isinstance(model, ByShape) and not isinstance(model, ObservedGraphModule)
    parameters = dict(model.named_parameters())
    set_fake_quantize(model, FakeQuantState.CALIBRATION)
    with pytest.raises(InputError, match="run a forward first"):
        convert(model)
    with caplog.at_level(logging.WARNING, logger="hqc"):
        calibrating = model(X)
    assert not [record for record in caplog.records if "make the optimizer" in record.message]
    assert isinstance(model, ByShape) and isinstance(model, ObservedGraphModule)
    assert dict(model.named_parameters())["conv.weight"] is parameters["conv.weight"]
    assert torch.allclose(calibrating, model.preparation.float_model(X), atol=1e-5)
    set_fake_quantize(model, FakeQuantState.VALIDATION)
    assert torch.allclose(convert(model)(X), model(X), atol=0.05)


def test_parameters_that_appear_at_the_first_forward_are_named(caplog: pytest.LogCaptureFixture) -> None:
    model = configured(ByShape)
    model.conv = nn.Conv2d(3, 6, 1, bias=False)
    prepare_qat(model, inplace=True)
    with caplog.at_level(logging.WARNING, logger="hqc"):
        model(X)
    assert any("conv.bias" in record.message and "optimizer" in record.message for record in caplog.records)


def test_a_failing_first_forward_leaves_the_model_as_it_was() -> None:
    model = ByShape().eval()  # without any qconfig
    prepare_qat(model, inplace=True)
    for _ in range(2):
        with pytest.raises(QConfigError):
            model(X)


def test_fusing_checks_names_and_leaves_the_rest_to_the_plan() -> None:
    model = configured()
    with pytest.raises(InputError, match=r"no module 'block.con'; did you mean block.conv"):
        fuse_modules(model, [["block.con", "block.bn"]])
    torch.ao.quantization.fuse_modules(model, FUSED, inplace=True, fuser_func=fuse_known_modules)
    assert type(model.block.bn) is nn.BatchNorm2d
    with pytest.raises(InputError, match="mapping must be None"):
        prepare_qat(model, mapping={nn.Conv2d: nn.Conv2d})


def test_a_waiting_model_remembers_what_it_is_told_and_can_be_saved() -> None:
    config = {"": get_default_qat_qconfig()}
    trained = prepare_qat_fx(ByShape().eval(), config, example_inputs=X).eval()
    trained(X)
    waiting = prepare_qat_fx(ByShape().eval(), config)
    assert isinstance(waiting, ByShape) and not isinstance(waiting, ObservedGraphModule)
    waiting.load_state_dict(trained.state_dict())
    set_fake_quantize(waiting, FakeQuantState.VALIDATION)
    buffer = io.BytesIO()
    torch.save(waiting, buffer)
    buffer.seek(0)
    set_fake_quantize(trained, FakeQuantState.VALIDATION)
    for model in (copy.deepcopy(waiting), torch.load(buffer, weights_only=False), waiting):
        assert torch.equal(model(X), trained(X))
        assert isinstance(model, ObservedGraphModule)


def test_a_waiting_model_under_ddp_is_refused_where_parameters_change(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ByShape().eval()
    model.conv = nn.Conv2d(3, 6, 1, bias=False)
    waiting = prepare_qat_fx(model, {"": get_default_qat_qconfig()})
    monkeypatch.setattr(DistributedDataParallel, "_active_ddp_module", object())
    with pytest.raises(SupportError, match=r"bn\.bias.*pass example_inputs"):
        waiting(X)


def test_a_real_fault_of_the_model_is_said_at_the_first_forward() -> None:
    class Branches(ByShape):
        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if bool(x.sum() > 0) else x

    waiting = prepare_qat_fx(Branches().eval(), {"": get_default_qat_qconfig()})
    with pytest.raises(TraceError, match="a branch tests the value of"):
        waiting(X)
