"""Every entry point takes constants of forward, leaf modules, exported programs and converted models; sizes that steered are checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.ao.quantization import QuantStub

import hqc
from hqc.errors import ShapeError, TraceError
from hqc.march import set_march
from hqc.quantization.qconfig import get_default_qat_qconfig
from hqc.workflow.convert import convert_fx
from hqc.workflow.explain import explain
from hqc.workflow.prepare import prepare_qat_fx


class OnData(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.conv, self.pick = QuantStub(), nn.Conv2d(3, 8, 3, padding=1), OnData()

    def forward(self, x: torch.Tensor, mode: str) -> torch.Tensor:
        x = self.conv(self.quant(x))
        if mode == "relu":
            x = F.relu(x)
        if x.shape[2] % 8 == 0:
            x = F.max_pool2d(x, 2)
        return self.pick(x)


X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CURES: dict[str, Any] = {"concrete_args": {"mode": "relu"}, "leaf_modules": [OnData]}


def qat(model: Any, **more: Any) -> Any:
    set_march("bayes")
    return prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(X,), **more)


def test_cures_of_a_branch_on_data_work_at_every_entry_point() -> None:
    model = Net().eval()
    with pytest.raises(TraceError, match=r"a branch tests the value of `gt`.*concrete_args.*leaf_modules"):
        explain(model, (X,), march="bayes", concrete_args=CURES["concrete_args"])
    by_instance = {**CURES, "leaf_modules": [model.pick]}
    assert explain(model, (X,), march="bayes", form="qat", **by_instance).device_of("pick") == "cpu"
    compiled = hqc.compile(model, (X,), march="bayes", calibration_data=[(X,)], **by_instance)
    with torch.no_grad():
        expected = model(X, "relu").numpy()
    np.testing.assert_allclose(compiled.simulate(X), expected, atol=0.05 * float(np.abs(expected).max()))
    assert qat(model, **by_instance)(X).shape == expected.shape
    assert hqc.lower(model, X, **by_instance).outputs[0].shape == expected.shape


def test_size_that_steered_is_a_remark_and_is_checked_at_forward() -> None:
    model = Net()
    line = Net.forward.__code__.co_firstlineno + 4
    sentence = f"test_what_may_be_given.py:{line}: the graph is right where `(relu.shape[2] % 8) == 0` is True"
    assert any(sentence in str(remark) for remark in explain(model, (X,), march="bayes", **CURES).remarks)
    prepared = qat(model, **CURES)
    assert prepared(X[:1]).shape == (1, 8, 8, 8)
    with pytest.raises(
        ShapeError, match=r"is True, as with the example inputs; these inputs give False: prepare the model again"
    ):
        prepared(torch.zeros(1, 3, 12, 12))
    assert tuple(convert_fx(prepared.eval())(X).shape) == (2, 8, 8, 8)


def test_exported_program_compiles_and_trains() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()).eval()
    program = torch.export.export(model, (X,))
    compiled = hqc.compile(program, (X,), march="bayes", calibration_data=[(X,)])  # type: ignore[arg-type]
    with torch.no_grad():
        expected = model(X).numpy()
    np.testing.assert_allclose(compiled.simulate(X), expected, atol=0.05 * float(np.abs(expected).max()))
    prepared = qat(program).train()
    prepared(X).sum().backward()
    assert all(parameter.grad is not None for name, parameter in prepared.named_parameters() if "weight" in name)


def test_half_model_compiles_as_a_float_copy() -> None:
    compiled = hqc.compile(nn.Sequential(nn.Conv2d(3, 8, 3)).half(), (X.half(),), march="bayes", calibration_data=[(X,)])
    assert compiled.simulate(X).shape == (2, 8, 14, 14)


@torch.fx.wrap
def stochastic_depth(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    if not training or p == 0.0:
        return x
    return x * torch.empty(x.shape[0], 1, 1, 1).bernoulli_(1 - p) / (1 - p)


class DropPath(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        return x * torch.empty(x.shape[0], 1, 1, 1).bernoulli_(0.5) * 2


class Drops(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.quant, self.first, self.second = QuantStub(), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.drop_path, self.kind = DropPath(), kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(self.quant(x))
        if self.kind == "wrapped":
            x = stochastic_depth(x, 0.5, self.training)
        elif self.kind == "module":
            x = self.drop_path(x)
        else:
            x = F.dropout(x, 0.5, self.training)
        return self.second(x)


@pytest.mark.parametrize("kind", ["wrapped", "module", "functional"])
def test_what_acts_in_training_alone_is_an_identity_in_the_plan_and_acts_in_the_emitted_model(kind: str) -> None:
    model = Drops(kind).eval()
    devices = {row.name: row.device for row in explain(model, (X,), march="bayes", form="qat").placement.rows}
    assert "cpu" not in devices.values()
    prepared = qat(model)
    assert torch.equal(prepared.eval()(X), prepared(X))
    prepared.train()
    outputs = [prepared(X) for _ in range(8)]
    assert any(not torch.equal(outputs[0], other) for other in outputs[1:])
    assert tuple(convert_fx(prepared.eval())(X).shape) == (2, 8, 16, 16)
