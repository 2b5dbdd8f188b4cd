"""FX mode: calibration, validation, strict load, training, convert, trace, save."""

import copy

import horizon_plugin_pytorch as horizon
import torch
from horizon_plugin_pytorch.march import March
from horizon_plugin_pytorch.quantization import (
    FakeQuantState,
    QuantStub,
    check_model,
    convert_fx,
    prepare_qat_fx,
    set_fake_quantize,
)
from horizon_plugin_pytorch.quantization.qconfig import (
    default_calib_8bit_fake_quant_qconfig,
    default_qat_8bit_fake_quant_qconfig,
    default_qat_8bit_weight_32bit_out_fake_quant_qconfig,
)
from torch import nn
from torch.quantization import DeQuantStub


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant = QuantStub(scale=1 / 128)
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Conv2d(8, 4, 1)
        self.dequant = DeQuantStub()

    def forward(self, x):
        x = self.classifier(self.pool(self.features(self.quant(x))))
        return torch.flatten(self.dequant(x), 1)


torch.manual_seed(0)
horizon.march.set_march(March.BAYES)
data = [torch.rand(4, 3, 16, 16) * 2 - 1 for _ in range(3)]
labels = torch.arange(4)
float_model = Net()
for batch in data:
    float_model(batch)
float_model.eval()

calib_model = prepare_qat_fx(copy.deepcopy(float_model), {"": default_calib_8bit_fake_quant_qconfig})
calib_model.eval()
set_fake_quantize(calib_model, FakeQuantState.CALIBRATION)
with torch.no_grad():
    for batch in data:
        calib_model(batch)
set_fake_quantize(calib_model, FakeQuantState.VALIDATION)
with torch.no_grad():
    error = (calib_model(data[0]) - float_model(data[0])).abs().max()
assert 0 < error < 0.1, error

qat_model = prepare_qat_fx(
    copy.deepcopy(float_model),
    {
        "": default_qat_8bit_fake_quant_qconfig,
        "module_name": {"classifier": default_qat_8bit_weight_32bit_out_fake_quant_qconfig},
    },
)
state = {k: v for k, v in calib_model.state_dict().items() if not k.startswith("classifier.activation_post_process")}
qat_model.load_state_dict(state, strict=True)
optimizer = torch.optim.SGD(qat_model.parameters(), lr=0.01)
qat_model.train()
set_fake_quantize(qat_model, FakeQuantState.QAT)
losses = []
for _ in range(4):
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(qat_model(data[0]), labels)
    loss.backward()
    optimizer.step()
    losses.append(float(loss))
assert losses[-1] < losses[0]
qat_model.eval()
set_fake_quantize(qat_model, FakeQuantState.VALIDATION)

quantized_model = convert_fx(qat_model).eval()
with torch.no_grad():
    assert torch.allclose(quantized_model(data[0]), qat_model(data[0]), atol=0.05)
torch.save(quantized_model.state_dict(), "int_model.pth")
quantized_model.load_state_dict(torch.load("int_model.pth"))
script = torch.jit.trace(quantized_model, data[0])
torch.jit.save(script, "int_model.pt")
assert torch.equal(torch.jit.load("int_model.pt")(data[0]), quantized_model(data[0]))
assert check_model(script, [data[0][:1]]) == 0
