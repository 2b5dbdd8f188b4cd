"""Batch norm in quantized training: folded (the default), kept with its statistics, or standing alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hqc.analysis.layers import layer_errors
from hqc.errors import InputError
from hqc.march import March, set_march
from hqc.nn import DeQuantStub, QuantStub, qat
from hqc.nn.quantized import FloatFunctional
from hqc.quantization import (
    FakeQuantState,
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
    set_fake_quantize,
)
from hqc.utils.onnx_helper import export_to_onnx
from hqc.workflow.deploy import deploy

QAT = {"": get_default_qat_qconfig()}
MARCHES = [March.BERNOULLI, March.BERNOULLI2, March.BAYES, March.BAYES_E]


@pytest.fixture(autouse=True)
def bayes() -> None:
    set_march(March.BAYES)


def data(step: int, count: int = 8) -> torch.Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(step))


class Net(nn.Module):
    """conv-bn-relu, transposed conv-bn, conv-bn-add-relu; the second with bias."""

    def __init__(self) -> None:
        super().__init__()
        self.quant = QuantStub()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.add, self.relu = FloatFunctional(), nn.ReLU()
        self.last, self.dequant = nn.Conv2d(4, 2, 1), DeQuantStub()
        for bn in (self.bn1, self.bn2, self.bn3):
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.uniform_(bn.bias, -0.5, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn1(self.conv1(self.quant(x))))
        x = self.bn2(self.conv2(x))
        x = self.relu(self.add.add(self.bn3(self.conv3(x)), x))
        return self.dequant(self.last(x))


def with_statistics(model: nn.Module) -> nn.Module:
    model.train()
    with torch.no_grad():
        for step in range(20):
            model(data(step))
    return model.eval()


def agree(prepared: Any) -> None:
    """Eval-mode fake-quant model and converted model: every layer within 1 LSB, 97 % of the outputs within one step."""
    set_fake_quantize(prepared.eval(), FakeQuantState.VALIDATION)
    deployment = deploy(prepared)
    assert max(row.max_lsb for row in layer_errors(deployment, {deployment.scaled.inputs[0].name: data(50).numpy()})) <= 1
    expected = prepared(data(50)).detach()
    differences = (convert_fx(prepared)(data(50)) - expected).abs() / (expected.abs().max() / 127.5)
    assert float((differences <= 1.01).float().mean()) >= 0.97


@pytest.mark.parametrize("march", MARCHES)
def test_kept_batch_norm_trains_with_its_statistics_and_converts_folded(march: March, tmp_path: Path) -> None:
    set_march(march)
    torch.manual_seed(1)
    model = with_statistics(Net())
    prepared = prepare_qat_fx(model, QAT, hybrid=True, example_inputs=data(0), keep_batch_norm=True).train()
    kinds = [type(prepared.get_submodule(name)) for name in ("conv1", "conv2", "add")]
    assert kinds == [qat.ConvBnReLU2d, qat.ConvTransposeBn2d, qat.ConvBnAddReLU2d]
    assert torch.equal(prepared.conv1.weight, model.conv1.weight)
    before = prepared.conv1.bn.running_mean.clone()
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.01)
    for step in range(5):
        optimizer.zero_grad()
        prepared(data(step) + 0.5).square().mean().backward()
        optimizer.step()
    assert not torch.equal(prepared.conv1.bn.running_mean, before)
    assert not torch.equal(prepared.conv1.bn.weight, model.bn1.weight)
    agree(prepared)
    export_to_onnx(prepared, data(50, 1), tmp_path / "model.onnx")


def test_kept_and_folded_agree_before_training() -> None:
    torch.manual_seed(1)
    model = with_statistics(Net())
    results = []
    for keep in (False, True):
        prepared = prepare_qat_fx(model, QAT, example_inputs=data(0), keep_batch_norm=keep).eval()
        prepared(data(0))
        results.append(prepared(data(0)).detach())
    reach = float(results[0].abs().max())
    torch.testing.assert_close(*results, rtol=0, atol=reach / 60)
    assert float((results[1] - model(data(0)).detach()).abs().max()) <= reach / 12


def test_calibrated_scales_go_into_a_model_that_keeps_batch_norm() -> None:
    torch.manual_seed(1)
    model = with_statistics(Net())
    calibration = prepare_calibration_fx(model, {"": get_default_calib_qconfig()}, example_inputs=data(0)).eval()
    calibration(data(0))
    prepared = prepare_qat_fx(calibration, QAT, keep_batch_norm=True).eval()
    assert torch.equal(prepared.conv1.weight, model.conv1.weight)
    set_fake_quantize(prepared, FakeQuantState.VALIDATION)
    expected = model(data(0)).detach()
    assert float((prepared(data(0)).detach() - expected).abs().max()) <= float(expected.abs().max()) / 12
    folded = prepare_qat_fx(prepared, QAT).eval()  # and back
    set_fake_quantize(folded, FakeQuantState.VALIDATION)
    torch.testing.assert_close(folded(data(0)), prepared(data(0)), rtol=0, atol=float(expected.abs().max()) / 60)


def test_copies_and_state_dict_keep_the_statistics() -> None:
    torch.manual_seed(1)
    model = with_statistics(Net())
    prepared = prepare_qat_fx(model, QAT, example_inputs=data(0), keep_batch_norm=True).train()
    prepared(data(3))
    fresh = prepare_qat_fx(model, QAT, example_inputs=data(0), keep_batch_norm=True)
    fresh.load_state_dict(prepared.state_dict())
    for twin in (copy.deepcopy(prepared), fresh):
        assert torch.equal(twin.conv1.bn.running_var, prepared.conv1.bn.running_var)
        assert torch.equal(twin.eval()(data(4)), copy.deepcopy(prepared).eval()(data(4)))


# --- on its own ------------------------------------------------------------------------------------------------------------


class Alone(nn.Module):
    """Batch norm behind a pool and an activation in front of a convolution, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.pool, self.bn, self.conv = QuantStub(), nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.dequant = DeQuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dequant(self.conv(torch.relu(self.bn(self.pool(self.quant(x))))))


@pytest.mark.parametrize("march", MARCHES)
def test_batch_norm_alone_is_a_unit_convolution_on_the_bpu(march: March, tmp_path: Path) -> None:
    set_march(march)
    torch.manual_seed(1)
    prepared = prepare_qat_fx(with_statistics(Alone()), QAT, hybrid=True, example_inputs=data(0))
    prepared.train()(data(0))
    prepared.eval()
    agree(prepared)
    assert type(prepared.bn) is qat.ConvReLU2d
    (node,) = [node for node in convert_fx(prepared).graph.nodes if "bn" in node.origin]
    assert node.op.name == "int_conv2d"
    assert node.attributes["groups"] == 4
    export_to_onnx(prepared, data(50, 1), tmp_path / "model.onnx")


def test_batch_norm_alone_can_be_kept() -> None:
    prepared = prepare_qat_fx(with_statistics(Alone()), QAT, hybrid=True, example_inputs=data(0), keep_batch_norm=True).train()
    assert type(prepared.bn) is qat.ConvBnReLU2d
    before = prepared.bn.bn.running_mean.clone()
    prepared(data(0) + 1).sum().backward()
    assert not torch.equal(prepared.bn.bn.running_mean, before)
    agree(prepared)


@pytest.mark.parametrize(("on_cpu", "name"), [(True, "bn"), (False, "bn.bn")])
def test_conversion_refuses_batch_norm_in_training_mode(on_cpu: bool, name: str) -> None:
    placed = {"hybrid_dict": {"module_name": ["bn"]}} if on_cpu else {}
    prepared = prepare_qat_fx(Alone(), QAT, hybrid=True, keep_batch_norm=True, **placed).train()
    prepared(data(0))
    with pytest.raises(InputError, match=rf"^{name}.*eval\(\)"):
        convert_fx(prepared)
    assert convert_fx(prepared.eval())(data(0)).shape[0] == 8
