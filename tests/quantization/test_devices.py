"""Prepared models live on the device where the float model lives: parameters, scales and statistics alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hqc.frontend.fx import lower_graph_module, trace
from hqc.frontend.fx.opaque import OpaqueCall
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
from hqc.structures import leaves


class Constants(nn.Module):
    """A layer without a lowering and a call with a constant of the model's device: both run elsewhere in the simulator."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.table = nn.GRU(4, 4, batch_first=True), torch.rand(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.heaviside(self.gru(x)[0], self.table.to(x.device))


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
    magnitudes = expected.abs()[
        expected != 0
    ]  # multiples of the output's scale, which LSQ leaves coarser than the range asks for
    step = max(float(magnitudes.min()), float(magnitudes.max()) / 127.5)
    assert float((converted - expected).abs().max()) <= 3.1 * step


def lowered_calls() -> list[OpaqueCall]:
    inputs = (torch.rand(2, 3, 4),)
    return list(lower_graph_module(trace(Constants().eval(), inputs), inputs).opaque.values())


def test_opaque_calls_run_where_their_operands_are() -> None:
    """No GPU is needed to see it: the meta device is another device too."""
    calls = lowered_calls()
    assert len(calls) == 2
    for call in calls:
        for device in ("cpu", "meta"):
            operand = torch.rand((2, 3, 4), device=device)
            results = [item for item in leaves(call.function(operand)) if isinstance(item, torch.Tensor)]
            assert {item.device.type for item in results} == {device}
