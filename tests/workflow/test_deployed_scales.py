"""On bernoulli a cat ties values to one scale. A model that was trained with several is deployed with a warning, not refused."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hqc
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import convert_fx, get_default_qat_qconfig, prepare_qat_fx
from hqc.utils.onnx_helper import export_to_onnx


class Skip(nn.Module):
    """A U-Net's skip, whose source another branch reads; what it is joined with is much larger."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.first, self.inner = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.pool, self.up, self.last = nn.MaxPool2d(2), nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(16, 4, 1)
        nn.init.normal_(self.up.weight, std=4.0)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.relu(self.first(self.quant(x)))
        inner = torch.relu(self.inner(self.pool(skip)))
        return self.dequant(self.last(torch.cat([self.up(inner), skip], 1)))


@pytest.mark.parametrize("optimize", [False, True])
def test_tied_values_are_deployed_with_one_scale_and_the_file_is_compared_at_it(
    optimize: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    set_march("bernoulli")
    x = torch.randn(1, 8, 16, 16)
    config = {"": get_default_qat_qconfig()}
    model = prepare_qat_fx(Skip(), config, hybrid=True, example_inputs=(x,), optimize_graph=optimize)
    model.train()(x)
    model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with caplog.at_level(logging.WARNING, logger="hqc"):
        report = export_to_onnx(model, (x,), str(tmp_path / "net.onnx"))
    assert report is not None and report.executed
    assert ("prepare with optimize_graph=True" in caplog.text) != optimize
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="hqc"):
        convert_fx(model)
    assert ("prepare with optimize_graph=True" in caplog.text) != optimize


class NegativeBeforePReLU(nn.Sequential):
    """What a PReLU gives has a quarter of the range that it takes: bernoulli only shifts right, and keeps the scale."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(8, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 4, 1))
        self[0].bias = nn.Parameter(torch.full((8,), -2.0))


def test_a_scale_that_the_chip_raises_is_that_of_the_fake_quantized_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 8, 16, 16)
    compiled = hqc.compile(NegativeBeforePReLU().eval(), x, march="bernoulli", calibration_data=[x])
    taken, given = (compiled.graph.values[name].quant for name in ("_0", "_1"))
    assert taken is not None and given is not None and taken.scale == given.scale
    assert compiled.export(tmp_path / "net.onnx", flavour="runnable").executed
    step = float(compiled.graph.outputs[0].producer.operands[0].quant.scale.max())  # type: ignore[union-attr]
    far = torch.as_tensor(compiled.fake_quant(x)) - torch.as_tensor(compiled.simulate(x))
    assert far.abs().max() <= step
