"""Training goes on from a checkpoint: parameters, scales, states and the optimizer."""

import copy

import torch
from horizon_plugin_pytorch.march import March, set_march
from horizon_plugin_pytorch.quantization import QuantWrapper, get_default_qat_qconfig, prepare_qat_fx
from torch import nn


def build():
    model = prepare_qat_fx(copy.deepcopy(float_model), {"": get_default_qat_qconfig()})
    model.train()
    return model, torch.optim.Adam(model.parameters(), lr=1e-3)


def step(model, optimizer, batch):
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()


torch.manual_seed(0)
set_march(March.BERNOULLI2)
float_model = QuantWrapper(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)))
data = [torch.rand(2, 3, 8, 8) for _ in range(4)]
model, optimizer = build()
for batch in data[:2]:
    step(model, optimizer, batch)
torch.save({"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}, "checkpoint.pth")
for batch in data[2:]:
    step(model, optimizer, batch)

checkpoint = torch.load("checkpoint.pth")
resumed, optimizer = build()
resumed.load_state_dict(checkpoint["state_dict"])
optimizer.load_state_dict(checkpoint["optimizer"])
for batch in data[2:]:
    step(resumed, optimizer, batch)
for (name, value), (_, other) in zip(model.state_dict().items(), resumed.state_dict().items()):
    assert torch.allclose(value.float(), other.float(), atol=1e-6), name
