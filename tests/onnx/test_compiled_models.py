"""Compiled torch models export in every flavour for every march, and each file computes what hqc computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import hqc


class Net(nn.Module):
    """A residual add, a cat, a max pool, an op that no BPU runs (selu) and a convolution forced to the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.forced = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = torch.relu(self.body(x) + x)
        x = self.pool(torch.cat([x, y], 1))
        x = torch.selu(self.forced(x))
        return self.head(x.flatten(1))


@pytest.fixture(scope="module", params=["bernoulli", "bernoulli2", "bayes", "bayes-e"])
def compiled(request: pytest.FixtureRequest) -> hqc.Compiled:
    torch.manual_seed(0)
    example = torch.randn(1, 3, 8, 8)
    data = [torch.randn(4, 3, 8, 8) for _ in range(4)]
    return hqc.compile(
        Net().eval(), (example,), march=request.param, calibration_data=data, hybrid_dict={"module_name": ["forced"]}
    )


@pytest.mark.parametrize("flavour", ["horizon", "runnable", "qdq", "integer"])
def test_the_file_computes_what_the_model_computes(compiled: hqc.Compiled, flavour: str, tmp_path: Path) -> None:
    report = compiled.export(tmp_path / "net.onnx", flavour=flavour)
    assert report.executed
    assert [(c.elements, c.differing) for c in report.comparisons] == [(10, 0)]
    assert report.findings == ()
    if flavour == "integer":
        assert report.comparisons[0].unequal == 0


def test_hb_mapper_is_told_what_stays_on_the_cpu(compiled: hqc.Compiled, tmp_path: Path) -> None:
    report = compiled.export(tmp_path / "net.onnx")
    assert {"forced", "selu"} <= set(report.run_on_cpu)
    assert "body" not in report.run_on_cpu
    assert 'run_on_cpu: "forced;selu' in (tmp_path / "net.yaml").read_text()


class OffGrid(nn.Module):
    """Results between the points of their operand's grid: a bilinear resize, an overlapping and two global average pools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mix = nn.Conv2d(16, 8, 1)
        self.small = nn.AvgPool2d(3, stride=2, padding=1)
        self.whole = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Conv2d(16, 10, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        y = nn.functional.interpolate(self.small(x), scale_factor=2.0, mode="bilinear")
        x = torch.relu(self.mix(torch.cat([x, y], 1)))
        return self.head(torch.cat([self.whole(x), x.mean((2, 3), keepdim=True)], 1)).flatten(1)


@pytest.mark.parametrize("march", ["bernoulli", "bernoulli2", "bayes", "bayes-e"])
def test_results_off_the_grid_round_alike_in_training_file_and_simulator(march: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    data = [torch.randn(2, 3, 14, 14) for _ in range(4)]
    compiled = hqc.compile(OffGrid().eval(), (torch.randn(1, 3, 14, 14),), march=march, calibration_data=data)
    for flavour in ("horizon", "qdq", "integer"):
        report = compiled.export(tmp_path / "net.onnx", flavour=flavour)
        assert [(c.elements, c.differing) for c in report.comparisons] == [(10, 0)], flavour
