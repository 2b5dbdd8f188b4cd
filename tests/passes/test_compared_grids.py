"""Peaks that are found by `x == max_pool(x)`: on two grids there are none, and a warning says so."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hqc


class Peaks(nn.Module):
    """As SuperPoint and CenterNet find them. `softmax` runs on the CPU, `sigmoid` on the BPU."""

    def __init__(self, scores) -> None:
        super().__init__()
        self.conv, self.scores = nn.Conv2d(3, 2, 3, 1, 1), scores

    def forward(self, x: Tensor) -> Tensor:
        scores = self.scores(self.conv(x))
        peaks = scores == F.max_pool2d(scores, 3, 1, 1)
        return torch.where(peaks, scores, torch.zeros_like(scores))


def compiled(scores, **options):
    torch.manual_seed(0)
    model, x = Peaks(scores).eval(), torch.randn(1, 3, 12, 12)
    found = hqc.compile(model, (x,), march="bayes", calibration_data=[(x,)], **options)
    said = [str(remark) for remark in found.remarks if "hardly ever equal" in str(remark)]
    kept = int((torch.as_tensor(found.simulate(x)) != 0).sum()), int((model(x) != 0).sum())
    return said, kept


def test_a_real_value_beside_a_rounded_one_is_said_and_the_cure_works() -> None:
    said, (found, _) = compiled(lambda y: y.softmax(1))
    assert len(said) == 1
    assert "softmax is compared with what max_pool2d selects from it on the BPU" in said[0]
    assert found == 0
    said, (found, wanted) = compiled(lambda y: y.softmax(1), hybrid_dict={"cpu": {"node_name": ["max_pool2d"]}})
    assert not said
    assert found >= wanted // 2


@pytest.mark.parametrize("scores", [torch.sigmoid, lambda y: y])
def test_what_comes_from_one_grid_is_equal(scores) -> None:
    said, (found, wanted) = compiled(scores)
    assert not said
    assert found >= wanted // 2
