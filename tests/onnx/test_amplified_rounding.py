"""A wrong file is refused, also beside a network so chaotic that a flipped rounding alone moves its outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hqc
from hqc.backends.onnx import export
from hqc.errors import ExportError


class Chaotic(nn.Module):
    """Every layer multiplies differences: a flip of one LSB early on reaches every output."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.Tanh())))
        for parameter in self.parameters():
            parameter.data *= gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def compiled(gain: float) -> hqc.Compiled:
    torch.manual_seed(0)
    data = torch.rand(2, 4, 8, 8) * 2 - 1
    return hqc.compile(Chaotic(gain), data[:1], march="bayes", calibration_data=[data])


def off(model: hqc.Compiled, distance: float):  # type: ignore[no-untyped-def]
    def reference(arrays):  # type: ignore[no-untyped-def]
        outputs = model._fake_quantized(arrays)
        return {name: array + np.float32(distance) for name, array in outputs.items()}

    return reference


def test_a_calm_network_that_differs_is_refused(tmp_path: Path) -> None:
    model = compiled(1.0)
    with pytest.raises(ExportError, match="does not compute"):
        export(model.graph, tmp_path / "m.onnx", reference=off(model, 0.5))
    assert not list(tmp_path.iterdir())


def test_a_chaotic_network_that_differs_within_its_own_chaos_gets_a_warning(tmp_path: Path) -> None:
    model = compiled(12.0)
    report = export(model.graph, tmp_path / "m.onnx", reference=off(model, 0.2))
    assert any("amplifies rounding" in str(finding) for finding in report.findings)
