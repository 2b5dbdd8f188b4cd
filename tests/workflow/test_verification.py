"""What verification at export costs: one run of a large network, all samples of a small one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hqc
from hqc.workflow import deployed
from hqc.workflow.deployed import samples_to_verify


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).relu()


def lowered(model: nn.Module, *shape: int) -> Any:
    return hqc.lower(model.eval(), (torch.zeros(shape),))


@pytest.mark.parametrize(
    ("make", "shape", "expected"),
    [
        (Small, (1, 3, 8, 8), 4),
        (lambda: nn.Conv2d(64, 64, 3), (1, 64, 60, 60), 2),  # 124 million multiply-accumulates
        (lambda: nn.Conv2d(64, 64, 3), (1, 64, 120, 120), 1),  # more than two runs of them
        (lambda: nn.Linear(2000, 2000), (1, 2000), 2),  # 16 MB of weights, each made real in each run
        (lambda: nn.Linear(6000, 6000), (1, 6000), 1),
    ],
)
def test_the_larger_the_network_the_fewer_samples(make: Callable[[], nn.Module], shape: tuple[int, ...], expected: int) -> None:
    assert samples_to_verify(lowered(make(), *shape), [1, 2, 3, 4]) == [1, 2, 3, 4][:expected]
    assert samples_to_verify(lowered(Small(), 1, 3, 8, 8), []) == []


@pytest.mark.parametrize(("small_work", "runs"), [(1 << 28, 4), (0, 1)])
def test_verification_runs_file_model_and_simulator_once_for_each_sample(
    small_work: int, runs: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    data = [torch.rand(1, 3, 8, 8) for _ in range(4)]
    compiled = hqc.compile(Small().eval(), (data[0],), march="bayes", calibration_data=data)
    monkeypatch.setattr(deployed, "_SMALL_WORK", small_work)
    calls: dict[str, int] = {}
    for reference in compiled.references:
        name, call = type(reference).__name__, type(reference).__call__

        def counted(self: Any, arrays: Any, name: str = name, call: Any = call) -> Any:
            calls[name] = calls.get(name, 0) + 1
            return call(self, arrays)

        monkeypatch.setattr(type(reference), "__call__", counted)
    report = compiled.export(tmp_path / "net.onnx")
    assert calls == {"ModelReference": runs, "SimulatorReference": runs}
    assert report.executed and report.comparisons
