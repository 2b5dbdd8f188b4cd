"""Eager mode: fuse, the modes of batch norm, in-place prepare and convert."""

import horizon_plugin_pytorch as horizon
import torch
from horizon_plugin_pytorch.nn.quantized import FloatFunctional
from horizon_plugin_pytorch.qat_mode import QATMode, get_qat_mode, set_qat_mode
from horizon_plugin_pytorch.quantization import fuse_known_modules
from torch import nn
from torch.quantization import DeQuantStub, QuantStub


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.add = FloatFunctional()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.add.add(self.bn(self.conv(x)), x))

    def fuse_model(self):
        torch.quantization.fuse_modules(self, ["conv", "bn", "add", "relu"], inplace=True, fuser_func=fuse_known_modules)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.stem = nn.Conv2d(3, 4, 3)
        self.block = Block(4)

    def forward(self, x):
        return self.dequant(self.block(self.stem(self.quant(x))))

    def fuse_model(self):
        self.block.fuse_model()

    def set_qconfig(self):
        self.qconfig = horizon.quantization.get_default_qat_qconfig()


torch.manual_seed(0)
horizon.march.set_march(horizon.march.March.BERNOULLI2)
data = torch.rand(2, 3, 10, 10)
for mode in (QATMode.FuseBN, QATMode.WithBN, QATMode.WithBNReverseFold):
    set_qat_mode(mode)
    assert get_qat_mode() == mode
    model = Net().eval()
    expected = model(data)
    model.fuse_model()
    model.set_qconfig()
    horizon.quantization.prepare_qat(model, inplace=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model.train()
    model(data).square().mean().backward()
    optimizer.step()
    model.eval()
    assert (type(model.block.add).__name__ == "ConvAddReLU2d") == (mode == QATMode.FuseBN)
    horizon.quantization.set_fake_quantize(model, horizon.quantization.FakeQuantState.VALIDATION)
    qat_result = model(data)
    assert torch.allclose(qat_result, expected, atol=0.5)
    horizon.quantization.convert(model, inplace=True)
    assert torch.allclose(model(data), qat_result, atol=0.05)
set_qat_mode(QATMode.FuseBN)
