"""Indices that the BPU rounds to whole numbers are one off behind its grid: a warning says so, and the cure works."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import hqc


class Gathered(nn.Module):
    """Bilinear sampling along a row as it is written by hand: the two columns beside a computed position."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.conv, self.places = nn.Conv2d(1, 1, 1), torch.arange(count).view(1, 1, 1, count) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        low = (torch.sigmoid(y) * 0.1 + self.places).floor()
        index = torch.cat((low, torch.clamp(low + 1, 0, x.shape[-1] - 1)), -1).long()
        return torch.gather(x, 3, index)


def compiled(**options):
    torch.manual_seed(0)
    model, x = Gathered(11).eval(), torch.arange(11.0).view(1, 1, 1, 11)
    found = hqc.compile(model, (x,), march="bayes", calibration_data=[(x,)], **options)
    said = [str(remark) for remark in found.remarks if "its integer 8" in str(remark)]
    return said, (torch.as_tensor(found.simulate(x)) - model(x)).abs().max()


def test_indices_behind_the_grid_are_said_to_be_one_off() -> None:
    said, error = compiled()
    assert len(said) == 1
    assert "the whole numbers of floor become integers here" in said[0]
    assert "place add_1, cat, clamp, floor on the CPU with hybrid_dict" in said[0]
    assert error > 0.5
    said, error = compiled(hybrid_dict={"cpu": {"node_name": ["floor", "add_1", "clamp", "cat"]}})
    assert not said
    assert error < 0.1
