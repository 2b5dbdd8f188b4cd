"""The layer report: agreeing roundings are no errors, kept results are read in the form they are kept, and an error is seen."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hqc
from hqc.analysis import layers
from hqc.analysis.layers import layer_errors
from hqc.backends import bpu

X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Net(nn.Module):
    """Results off their operand's grid (pool, resize), a result that the CPU reads too, outputs of every kind."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = torch.relu(self.a(x))
        pooled = F.avg_pool2d(y, 3, 2)
        wide = F.interpolate(pooled, scale_factor=2, mode="bilinear")
        z = self.b(wide) + wide
        return self.c(z), torch.selu(z), y, z.argmax(1), pooled


@pytest.mark.parametrize("march", ["bernoulli", "bernoulli2", "bayes", "bayes-e"])
def test_every_layer_agrees_within_one_step(march: str) -> None:
    compiled = hqc.compile(Net(), X, march=march, calibration_data=[X, X * 0.5])
    rows = layer_errors(compiled.deployment, compiled.samples[0])
    assert len(rows) >= 5
    assert all(row.max_lsb <= 1 and row.share <= 0.02 for row in rows), [dataclasses.astuple(row) for row in rows]


def test_results_kept_as_reals_are_not_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = hqc.compile(Net(), X, march="bayes", calibration_data=[X])
    expected = layer_errors(compiled.deployment, compiled.samples[0])
    scaled = {value.name: value.quant for node in compiled.graph.nodes for value in node.results}
    run = bpu.Program.run

    def dequantized(self: bpu.Program, inputs: object, keep: bool = False) -> dict[str, np.ndarray]:
        kept = run(self, inputs, keep=keep)  # type: ignore[arg-type]
        for name, array in kept.items():
            quant = scaled.get(name)
            if quant is not None and array.dtype == np.int8:
                kept[name] = array.astype(np.float32) * np.float32(quant.scale)
        return kept

    monkeypatch.setattr(bpu.Program, "run", dequantized)
    assert layer_errors(compiled.deployment, compiled.samples[0]) == expected


def test_a_kernel_that_is_off_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = hqc.compile(Net(), X, march="bayes", calibration_data=[X])
    run = bpu.Program.run

    def off(self: bpu.Program, inputs: object, keep: bool = False) -> dict[str, np.ndarray]:
        kept = run(self, inputs, keep=keep)  # type: ignore[arg-type]
        return {name: array // 2 if array.dtype == np.int8 and name == "add" else array for name, array in kept.items()}

    monkeypatch.setattr(bpu.Program, "run", off)
    worst = max(layers.layer_errors(compiled.deployment, compiled.samples[0]), key=lambda row: row.max_lsb)
    assert worst.max_lsb > 10
