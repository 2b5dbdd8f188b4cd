"""Several heads in a dict, each with its own output: one at high precision, one with 8 bits; inputs in a dict, code that reads sizes."""

import torch
from horizon_plugin_pytorch.march import March, set_march
from horizon_plugin_pytorch.nn import Interpolate
from horizon_plugin_pytorch.nn.quantized import FloatFunctional
from horizon_plugin_pytorch.quantization import (
    DeQuantStub,
    FakeQuantState,
    QuantStub,
    convert_fx,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.quant = QuantStub()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU())
        self.up, self.cat = Interpolate(scale_factor=2, mode="bilinear", align_corners=False), FloatFunctional()
        self.skip = nn.Conv2d(3, 8, 1)
        self.heads = nn.ModuleDict({"mask": nn.Conv2d(16, 2, 1), "depth": nn.Conv2d(16, 1, 1)})
        self.dequants = nn.ModuleDict({name: DeQuantStub() for name in self.heads})
        self.heads["mask"].qconfig = get_default_qat_out_qconfig()

    def forward(self, batch):
        image = self.quant(batch["image"])
        features = self.cat.cat([self.up(self.backbone(image)), self.skip(image)], dim=1)
        return {name: self.dequants[name](head(features)) for name, head in self.heads.items()}


torch.manual_seed(0)
set_march(March.BAYES_E)
batch = {"image": torch.rand(2, 3, 8, 8)}
float_model = Net().eval()
qat_model = prepare_qat_fx(float_model, {"": get_default_qat_qconfig()})
qat_model.eval()
set_fake_quantize(qat_model, FakeQuantState.CALIBRATION)
qat_model(batch)
set_fake_quantize(qat_model, FakeQuantState.VALIDATION)
results, expected = qat_model(batch), float_model(batch)
assert set(results) == {"mask", "depth"}
assert qat_model.heads["mask"].activation_post_process is None and qat_model.heads["depth"].activation_post_process is not None
quantized = convert_fx(qat_model)(batch)
for name in results:
    assert torch.allclose(results[name], expected[name], atol=0.1)
    assert torch.allclose(quantized[name], results[name], atol=0.05)
