"""Models with operations that the IR does not express: written in every flavour, run by the simulator, or refused in advance."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import hqc
from hqc.backends import bpu
from hqc.errors import ExportError
from hqc.march import set_march
from hqc.nn import QuantStub
from hqc.quantization import get_default_qat_qconfig, prepare_qat_fx

FLAVOURS = ("horizon", "runnable", "qdq", "integer")


class SpeechTail(nn.Module):
    """A convolution in front of a GRU and a top-k over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.gru = nn.GRU(48, 10, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Any:
        y = torch.relu(self.conv(x)).permute(0, 3, 1, 2).flatten(2)
        y, _ = self.gru(y)
        return torch.cumsum(y, 1), torch.topk(y, 3, dim=1)[1]


class Inverse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stub = QuantStub()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("ridge", 9 * torch.eye(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(self.conv(self.stub(x)) + self.ridge)


@pytest.fixture(scope="module")
def speech() -> tuple[hqc.workflow.compile.Compiled, Tensor]:
    torch.manual_seed(0)
    x = torch.rand(1, 3, 6, 9) * 2 - 1
    data = [torch.rand(1, 3, 6, 9) * 2 - 1 for _ in range(3)]
    return hqc.compile(SpeechTail().eval(), x, march="bayes", calibration_data=[x, *data]), x


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_flavour_holds_opaque_operations(flavour: str, speech: Any, tmp_path: Path) -> None:
    compiled, x = speech
    report = compiled.export(tmp_path / "m.onnx", flavour=flavour)
    assert report.executed
    model = onnx.load(tmp_path / "m.onnx")
    assert {"GRU", "CumSum", "TopK"} <= {node.op_type for node in model.graph.node}
    assert {item.version for item in model.opset_import if not item.domain} == {11}
    if flavour == "integer":
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for got, wanted in zip(session.run(None, {"x": x.numpy()}), compiled.simulate(x), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    if flavour == "horizon":
        kept = (tmp_path / "m.yaml").read_text()
        assert all(name in kept for name in (node.name for node in model.graph.node if node.op_type in ("GRU", "CumSum")))


def test_the_simulator_runs_them_in_onnxruntime_for_any_batch(speech: Any) -> None:
    compiled, _ = speech
    x = torch.rand(5, 3, 6, 9) * 2 - 1
    simulated, seen = compiled.simulate(x), compiled.fake_quant(x)
    np.testing.assert_allclose(simulated[0], seen[0], atol=0.05)
    program = bpu.compile(compiled.integer_graph, opaque=compiled.deployment.opaque)
    steps = [[node.op.name for node in step.nodes] for step in program.steps]
    assert ["opaque"] * 3 in steps  # one onnxruntime session for all three


def test_their_multiply_accumulates_count(speech: Any) -> None:
    compiled, _ = speech
    row = next(row for row in compiled.placement.rows if row.where == "gru")
    assert row.macs == 9 * 2 * (30 * 48 + 30 * 10)


def test_what_no_file_can_hold_is_said_before_training_and_by_export_alike(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    x, model = torch.rand(1, 3, 6, 6), Inverse().eval()
    (sentence,) = hqc.explain(model, x, march="bayes").placement.unwritable
    assert "linalg_inv" in sentence and "test_opaque_models.py:" in sentence
    assert sentence in str(hqc.explain(model, x, march="bayes"))
    set_march("bayes")
    with caplog.at_level(logging.WARNING, logger="hqc"):
        prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(x,))
    assert sentence in caplog.text
    compiled = hqc.compile(model, x, march="bayes", calibration_data=[x])
    assert compiled.simulate(x).shape == (1, 4, 6, 6)
    with pytest.raises(ExportError) as caught:
        compiled.export(tmp_path / "m.onnx")
    assert str(caught.value) == sentence
    assert list(tmp_path.iterdir()) == []
