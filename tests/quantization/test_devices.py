"""Prepared models live on the device where the float model lives: parameters, scales and statistics alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hqc.march import March, set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import (
    FakeQuantState,
    convert_fx,
    default_qat_8bit_lsq_quant_qconfig,
    fuse_fx,
    get_default_calib_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
    set_fake_quantize,
)


class Net(nn.Module):
    """A stub, a layer, a CPU operation (boundary fake quant) and a BPU function (fake quant of its own)."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = QuantStub(scale=1 / 32), DeQuantStub()
        self.conv, self.bn, self.selu = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.bn(self.conv(self.quant(x)))
        return self.dequant(self.selu(x) * torch.sigmoid(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("march", [March.BERNOULLI, March.BAYES])
@pytest.mark.parametrize("qconfig", [get_default_qat_qconfig(), default_qat_8bit_lsq_quant_qconfig], ids=["statistics", "lsq"])
def test_calibration_training_and_conversion_on_cuda(qconfig: object, march: March, keep: bool) -> None:
    set_march(march)
    torch.manual_seed(0)
    model = Net().cuda()
    data = torch.randn(4, 3, 8, 8, device="cuda")
    assert {p.device.type for p in fuse_fx(model).parameters()} == {"cuda"}
    calibration = prepare_calibration_fx(model, {"": get_default_calib_qconfig()}, hybrid=True).eval()
    calibration(data)
    prepared = prepare_qat_fx(calibration, {"": qconfig}, hybrid=True, keep_batch_norm=keep).train()
    assert {tensor.device.type for tensor in (*prepared.parameters(), *prepared.buffers())} == {"cuda"}
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.01)
    for enabled in (False, True):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16, enabled=enabled):
            loss = prepared(data).float().square().mean()
        loss.backward()
        optimizer.step()
    set_fake_quantize(prepared.eval(), FakeQuantState.VALIDATION)
    with torch.no_grad():
        expected = prepared(data)
    converted = convert_fx(prepared)(data)
    assert converted.device == expected.device
    assert float((converted - expected).abs().max()) <= 3.1 * float(expected.abs().max()) / 127.5
