"""Calls of the model whose steps run on different devices: written step by step, trained, converted and exported as they are placed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hqc
from hqc.march import set_march
from hqc.nn import QuantStub
from hqc.quantization import convert_fx, get_default_qat_qconfig, prepare_qat_fx
from hqc.quantization.switches import quantizing


class Net(nn.Module):
    """Rows of 16 features: a layer, then what a subclass does with them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.quant, self.stem, self.norm = QuantStub(), nn.Linear(16, 16), nn.LayerNorm(16)
        self.key, self.value, self.out = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.conv, self.pool, self.top = nn.Conv1d(16, 8, 3, padding=1), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1)

    def rows(self, x: Tensor) -> Tensor:
        return torch.tanh(self.stem(self.quant(x)))


class Attention(Net):
    """Heads as `view` and `transpose` make them: the transpose of the keys is one with that inside the call."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.rows(x)
        q, k, v = (z.view(-1, 6, 2, 8).transpose(1, 2) for z in (y, self.key(y), self.value(y)))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 6, 16))


class MaskedAttention(Net):
    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.randn(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.rows(x)
        return self.out(F.scaled_dot_product_attention(y, self.key(y), self.value(y), attn_mask=self.mask))


class PoolOfRows(Net):
    """The last reshape of the pool is one with the flatten."""

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.top(self.norm(self.rows(x)).transpose(1, 2)).flatten(1))


class PoolOfManyRows(Net):
    """A window that bernoulli averages in stages."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(self.rows(x)).repeat(1, 40, 1)
        return self.out(self.top(rows.transpose(1, 2)).flatten(1))


class PoolBeforeConvolution(Net):
    """The last reshape of the pool and the first of the convolution cancel."""

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(self.pool(self.norm(self.rows(x)).transpose(1, 2)[..., :4])))


class ContractionOfParameter(Net):
    """Heads of their own: a tensor of rank three that trains, with its axes in another order than the product needs."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Parameter(torch.randn(8, 2, 4) / 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.rows(x).unflatten(-1, (2, 8))
        return torch.einsum("bnhc,chd->bhnd", y, self.heads).softmax(-1)


class Contraction(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.rows(x)
        return torch.einsum("bnm,bmc->bcn", torch.einsum("bnc,bmc->bnm", y, self.key(y)).softmax(-1), self.value(y))


class ResultsTakenApart(Net):
    """The stack takes in the maxima, which leaves the call's other result and the size of the first to be read."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(self.quant(x)).view(-1, 16)
        best = y[:, :3].softmax(1).max(1)
        pairs = torch.stack([torch.sigmoid(y[:, 5]), best[0].view(-1)], 1)
        return pairs + 1e-4 * best[1].view(best[0].size(0), -1)


KINDS: list[type[Net]] = [
    Attention,
    MaskedAttention,
    PoolOfRows,
    PoolOfManyRows,
    PoolBeforeConvolution,
    Contraction,
    ContractionOfParameter,
    ResultsTakenApart,
]
DIVIDED = {
    ("Attention", "bayes"): {"scaled_dot_product_attention_weights": "cpu", "scaled_dot_product_attention": "bpu"},
    ("Attention", "bernoulli2"): {"scaled_dot_product_attention_scaled": "bpu", "scaled_dot_product_attention": "cpu"},
    ("PoolOfRows", "bernoulli2"): {"top_image": "cpu", "top_of_image": "bpu"},
    ("PoolBeforeConvolution", "bayes"): {"pool_image": "cpu", "pool_of_image": "bpu"},
}
"""Steps of one call on different devices, as every form of the plan and the deployed graph have them."""


@pytest.mark.parametrize("march", ["bernoulli", "bernoulli2", "bayes", "bayes-e"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_divided_calls_train_convert_and_export(kind: type[Net], march: str, tmp_path: Path) -> None:
    net: Any = kind().eval()
    x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1))
    expected = net(x).detach().numpy()
    step = float(np.abs(expected).max())
    compiled = hqc.compile(net, x, march=march, calibration_data=[x])
    devices = {name: each.device.value for name, each in ((node.name, node) for node in compiled.graph.nodes) if each.device}
    assert DIVIDED.get((kind.__name__, march), {}).items() <= devices.items()
    assert np.abs(np.asarray(compiled.simulate(x)) - expected).max() <= 0.1 * step
    compiled.export(tmp_path / "net.onnx")  # verified against the model
    set_march(march)
    for given in (x, None):  # planned now, or at the first forward
        prepared = prepare_qat_fx(net, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=given).train()
        prepared(x).sum().backward()
        assert not [name for name, parameter in prepared.named_parameters() if name in _used(net) and parameter.grad is None]
        prepared.eval()
        with quantizing(prepared, ()), torch.no_grad():
            assert np.abs(prepared(x).numpy() - expected).max() <= 1e-5 * step  # the float model, where nothing is quantized
        trained = prepared(x)
        assert np.abs(trained.detach().numpy() - expected).max() <= 0.15 * step
        assert (torch.as_tensor(convert_fx(prepared)(x)) - trained).abs().max() <= 0.03 * step


def _used(net: nn.Module) -> set[str]:
    """The parameters that the float model trains."""
    net.zero_grad()
    net(torch.randn(2, 6, 16)).sum().backward()
    return {name for name, parameter in net.named_parameters() if parameter.grad is not None}
