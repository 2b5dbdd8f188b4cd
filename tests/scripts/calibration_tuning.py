"""Which observer suits: every one is calibrated and evaluated, the best goes on into training with frozen activation scales."""

import copy

import torch
from horizon_plugin_pytorch.march import March, set_march
from horizon_plugin_pytorch.quantization import (
    FakeQuantState,
    QuantWrapper,
    get_default_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from torch import nn

torch.manual_seed(0)
set_march(March.BAYES)
float_model = QuantWrapper(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))).eval()
data = [torch.randn(2, 3, 10, 10) for _ in range(2)]
candidates = [
    ("min_max", {"averaging_constant": 0.1}),
    ("percentile", {"percentile": 99.99}),
    ("kl", {"bins": 512}),
    ("mse", {"stride": 1}),
    ("mix", {}),
]
errors = {}
models = {}
for name, keywords in candidates:
    qconfig = get_default_qconfig(activation_observer=name, activation_qkwargs=keywords)
    model = prepare_qat_fx(copy.deepcopy(float_model), {"": qconfig}).eval()
    set_fake_quantize(model, FakeQuantState.CALIBRATION)
    with torch.no_grad():
        for batch in data:
            model(batch)
        set_fake_quantize(model, FakeQuantState.VALIDATION)
        errors[name] = float((model(data[0]) - float_model(data[0])).square().mean())
    models[name] = model
best = min(errors, key=errors.get)
assert 0 < errors[best] < 0.01, errors

frozen = get_default_qconfig(activation_qkwargs={"averaging_constant": 0}, weight_qkwargs={"averaging_constant": 1})
qat_model = prepare_qat_fx(copy.deepcopy(float_model), {"": frozen})
qat_model.load_state_dict(models[best].state_dict())
before = qat_model.module.get_submodule("0").activation_post_process.scale.clone()
set_fake_quantize(qat_model, FakeQuantState.QAT)
qat_model.train()
qat_model(data[1]).square().mean().backward()
assert torch.equal(qat_model.module.get_submodule("0").activation_post_process.scale, before)
