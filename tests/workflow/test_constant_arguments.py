"""Arguments of forward that are constants (`concrete_args`), tensors too: they need not be given, and the comparison knows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import hqc

_T = torch.Tensor


class Masked(nn.Module):
    """Keeps the tokens that a mask leaves: how many is known where the mask is."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: _T, mask: _T) -> _T:
        batch, _, channels = x.shape
        batch, count, channels = self.linear(x)[~mask].reshape(batch, -1, channels).shape
        return self.linear(x)[~mask].reshape(batch, count * channels)


class MaskedByDefault(Masked):
    def forward(self, x: _T, mask: _T | None = None) -> _T:
        assert mask is not None
        return super().forward(x, mask)


class Flagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: _T, flag: bool) -> _T:
        return self.linear(x) if flag else self.linear(x).relu()


MASK = torch.arange(6).reshape(1, 6) % 2 == 0


@pytest.mark.parametrize("given", [False, True], ids=["left out", "given"])
@pytest.mark.parametrize(
    ("cls", "constants"), [(Masked, {"mask": MASK}), (MaskedByDefault, {"mask": MASK}), (Flagged, {"flag": True})]
)
def test_constants_of_a_required_argument(cls: type[nn.Module], constants: dict[str, Any], given: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = cls().eval(), torch.randn(1, 6, 8)
    inputs = (x, *constants.values()) if given else (x,)
    compiled = hqc.compile(model, inputs, march="bayes", calibration_data=[inputs], effort="fast", concrete_args=constants)
    assert not [remark for remark in compiled.remarks if "could not be compared" in str(remark)]
    with torch.no_grad():
        expected = model(x, *constants.values()).numpy()
    assert np.abs(compiled.simulate(*inputs) - expected).max() < 0.05
    assert compiled.export(tmp_path / "net.onnx", flavour="runnable").executed
