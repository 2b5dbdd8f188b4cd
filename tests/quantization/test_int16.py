"""int16 activations on bayes: float to prepared, converted and exported, every layer within 1 LSB of the quantized training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hqc.analysis.layers import layer_errors
from hqc.errors import QConfigError
from hqc.march import March, set_march
from hqc.nn import DeQuantStub, QuantStub
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

DATA = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(5))


class Net(nn.Module):
    """Convolution, residual addition, additions and products of activations, a table, max pools."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv1, self.bn1, self.conv2 = nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.add, self.mul, self.join = FloatFunctional(), FloatFunctional(), FloatFunctional()
        self.sigmoid, self.max_pool = nn.Sigmoid(), nn.MaxPool2d(2)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.relu(self.bn1(self.conv1(self.quant(x))))
        x = self.add.add(self.conv2(gate), gate)
        y = self.mul.mul(x, self.sigmoid(gate))
        x = self.join.cat([self.max_pool(y), self.max_pool(x)], 1)
        return self.dequant(self.last(x + x))


@pytest.fixture(autouse=True)
def bayes() -> None:
    set_march(March.BAYES)


def trained(calibrated: bool) -> Any:
    torch.manual_seed(2)
    model: nn.Module = Net().eval()
    if calibrated:
        model = prepare_calibration_fx(model, {"": get_default_calib_qconfig(dtype="qint16")}, hybrid=True, example_inputs=DATA)
        model.eval()(DATA)
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig(dtype="qint16")}, hybrid=True, example_inputs=DATA).train()
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        prepared(DATA).square().mean().backward()
        optimizer.step()
    set_fake_quantize(prepared.eval(), FakeQuantState.VALIDATION)
    return prepared


@pytest.mark.parametrize("calibrated", [False, True])
def test_int16_layers_agree_with_training_and_the_file_is_written(calibrated: bool, tmp_path: Path) -> None:
    prepared = trained(calibrated)
    deployment = deploy(prepared)
    on_bpu = [node for node in deployment.integer.nodes if node.device is not None and node.device.value == "bpu"]
    dtypes = {node.result.type.dtype.value for node in on_bpu}
    assert "i16" in dtypes
    assert "i8" not in dtypes
    rows = layer_errors(deployment, {deployment.scaled.inputs[0].name: DATA.numpy()})
    assert {"conv2d", "add", "mul", "sigmoid", "max_pool2d", "cat"} <= {row.op for row in rows}, rows
    assert max(row.max_lsb for row in rows) <= 1, rows
    expected = prepared(DATA).detach()
    difference = (convert_fx(prepared)(DATA) - expected).abs().max() / expected.abs().max()
    assert float(difference) <= 8 / 32767
    export_to_onnx(prepared, DATA[:1], tmp_path / "model.onnx")


def test_int16_is_finer_than_int8() -> None:
    torch.manual_seed(2)
    model = Net().eval()
    errors = {}
    for dtype in ("qint8", "qint16"):
        prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig(dtype=dtype)}, hybrid=True, example_inputs=DATA).eval()
        prepared(DATA)
        set_fake_quantize(prepared, FakeQuantState.VALIDATION)
        errors[dtype] = float((convert_fx(prepared)(DATA) - model(DATA)).detach().square().mean())
    assert errors["qint16"] < errors["qint8"] / 3  # the weights stay int8


def test_int16_where_the_operations_own_row_has_int8_only_is_refused_with_both_names() -> None:
    model = nn.Sequential(QuantStub(), nn.Conv2d(4, 4, 1), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1), DeQuantStub()).eval()
    with pytest.raises(QConfigError, match=r"2 .*reads _1 as qint16 \(the global entry \"\"\), avg_pool2d has qint8"):
        prepare_qat_fx(model, {"": get_default_qat_qconfig(dtype="qint16")}, hybrid=True, example_inputs=DATA)
    narrow = {"": get_default_qat_qconfig(dtype="qint16"), "module_name": [(name, get_default_qat_qconfig()) for name in "12"]}
    graph = prepare_qat_fx(model, narrow, hybrid=True, example_inputs=DATA)
    dtypes = {name: graph.get_submodule(f"{name}.activation_post_process").dtype for name in "013"}
    assert dtypes == {"0": "qint16", "1": "qint8", "3": "qint16"}
