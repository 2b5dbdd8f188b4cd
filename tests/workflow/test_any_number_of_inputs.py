"""A forward that takes any number of tensors, `forward(self, *images)`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import hqc


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, *images: Tensor) -> Tensor:
        return self.left(images[0]) + self.right(images[1])


class WithTargets(Two):
    """As YOLOX's head has them: arguments by name alone, behind the images."""

    def forward(self, *images: Tensor, labels: Tensor | None = None, scale: float = 1.0) -> Tensor:
        assert labels is None
        return super().forward(*images) * scale


@pytest.mark.parametrize("kind", [Two, WithTargets])
def test_whole_way(kind: type[Two], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    x = (torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8))
    compiled = hqc.compile(model, x, march="bayes", calibration_data=[x, x])
    expected = model(*x)
    assert (torch.as_tensor(compiled.simulate(*x)) - expected).abs().max() < 0.05 * expected.abs().max()
    assert compiled.export(str(tmp_path / "net.onnx"), flavour="runnable").executed
