"""Channels whose bias or residual needs the accumulator's headroom: weight scales are raised when the model is lowered.

Section 4 of the arithmetic. A raised scale moves the channel's products by less than 1e-3 of the bias or residual that asked for
it, so the training model, which keeps the finer scale, still gives the converted model's integers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hqc.march import March, set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import FakeQuantState, convert_fx, get_default_qat_qconfig, prepare_qat_fx, set_fake_quantize
from hqc.utils.onnx_helper import export_to_onnx
from hqc.workflow.deploy import deploy

DATA = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(7))
DEAD = 1e-9


class Net(nn.Module):
    """A convolution with a channel that batch norm switched off all but its bias, alone or with a residual."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.quant, self.dequant, self.residual = QuantStub(), DeQuantStub(), residual
        self.conv, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        with torch.no_grad():
            self.conv.weight[1] *= DEAD
            self.conv.bias[1] = 20.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.quant(x)
        y = self.conv(x)
        return self.dequant(self.last(torch.relu(y + x if self.residual else y)))


def trained(march: March, residual: bool) -> Any:
    set_march(march)
    torch.manual_seed(0)
    prepared = prepare_qat_fx(Net(residual), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=DATA).train()
    for _ in range(2):
        prepared(DATA).square().mean().backward()
    set_fake_quantize(prepared.eval(), FakeQuantState.VALIDATION)
    return prepared


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("march", [March.BERNOULLI2, March.BAYES, March.BAYES_E])
def test_training_and_simulator_agree_where_scales_are_raised(march: March, residual: bool, tmp_path: Path) -> None:
    prepared = trained(march, residual)
    deployment = deploy(prepared)
    assert any("weight scales of 1 of 4 channels raised (channel 1" in str(remark) for remark in deployment.remarks)
    layer = next(node for node in deployment.scaled.nodes if node.op.name == "conv2d")
    raised = layer.operand("weight").quant.scale
    before = prepared.conv.weight_fake_quant.scale.numpy()
    assert raised[1] > 1.5 * before[1]
    assert (raised[[0, 2, 3]] == before[[0, 2, 3]]).all()
    expected = prepared(DATA).detach()
    differences = (convert_fx(prepared)(DATA) - expected).abs() / (expected.abs().max() / 127.5)
    assert float(differences.max()) <= 1.01
    assert float((differences > 0.5).float().mean()) <= 0.03
    export_to_onnx(prepared, DATA[:1], tmp_path / "model.onnx")
