"""ResNet-18 and MobileNetV2 on every march: compile, simulate, export, run in onnxruntime, and judge each layer by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import hqc
from benchmarks.models import mobilenet_v2, resnet18
from hqc.analysis.layers import layer_errors
from hqc.workflow.compile import Compiled

MARCHES = ("bernoulli", "bernoulli2", "bayes", "bayes-e")
SIZE = 64


@pytest.fixture(scope="module", params=[f"{net}-{march}" for net in ("resnet18", "mobilenet_v2") for march in MARCHES])
def compiled(request: pytest.FixtureRequest) -> Compiled:
    net, _, march = request.param.partition("-")
    torch.manual_seed(0)
    model = {"resnet18": resnet18, "mobilenet_v2": mobilenet_v2}[net]().eval()
    data = [torch.rand(1, 3, SIZE, SIZE) for _ in range(2)]
    return hqc.compile(model, data[0], march=march, calibration_data=data)


def test_simulator_follows_the_fake_quant_model(compiled: Compiled) -> None:
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    integer, fake = compiled.simulate(image), compiled.fake_quant(image)
    assert integer.shape == fake.shape == (1, 1000)
    assert np.corrcoef(integer.ravel(), fake.ravel())[0, 1] > 0.95


def test_every_layer_fed_the_same_integers_is_within_one_lsb(compiled: Compiled) -> None:
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5)).numpy()
    rows = layer_errors(compiled.deployment, {compiled.graph.inputs[0].name: image})
    assert len(rows) > 15
    worse = [row for row in rows if row.max_lsb > 1]
    assert not worse, worse


def test_exported_file_runs_in_onnxruntime(compiled: Compiled, tmp_path: Path) -> None:
    compiled.export(tmp_path / "model.onnx", flavour="runnable", verify=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    image = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    (output,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    expected = compiled.fake_quant(image)
    assert np.abs(output - expected).max() <= np.abs(expected).max() / 20
