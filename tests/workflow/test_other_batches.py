"""A model that was compiled for one batch size is simulated with others: right, or refused in one sentence; fake quantized alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hqc
from hqc.errors import ShapeError


class Net(nn.Module):
    def __init__(self, ending: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.ending = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), ending
        self.token, self.queries = nn.Parameter(torch.randn(1, 8, 4, 4)), nn.Parameter(torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.ending(self, self.first(x))


def _by_kernels(net: Net, y: Tensor) -> Tensor:
    kernels = (net.second.weight[None] * y.mean((2, 3)).sigmoid()[:, None, :, None, None]).reshape(-1, 8, 3, 3)
    return F.conv2d(y.reshape(1, -1, 4, 4), kernels, padding=1, groups=y.shape[0]).view(y.shape[0], 8, 4, 4)


ENDINGS: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "repeat": lambda net, y: net.second(y + net.token.repeat(y.shape[0], 1, 1, 1)),
    "tile": lambda net, y: net.second(y + torch.tile(net.token, (y.size(0), 1, 1, 1))),
    "expand": lambda net, y: net.second(torch.cat([y, net.token.expand(len(y), -1, -1, -1)], 2)),
    "queries": lambda net, y: net.queries.unsqueeze(1).repeat(1, y.shape[0], 1).transpose(0, 1) @ y.flatten(2),
    "mean of the batch": lambda net, y: net.second(y) - y.mean(0, keepdim=True),
    "grid of indices": lambda net, y: net.second(y)[torch.arange(y.shape[0])[:, None], torch.arange(8)[None]],
    "kernels of each sample": _by_kernels,
    "stacked": lambda net, y: torch.stack([net.second(y[i][None])[0] for i in range(y.shape[0])]),
    "listed": lambda net, y: torch.cat([part.flatten() for part in net.second(y)]).view(len(y), -1),
    "chunks": lambda net, y: net.second(torch.cat(y.chunk(y.shape[0], 0), 0)),
    "squeezed": lambda net, y: net.second(y).squeeze(),
    "a share of the batch": lambda net, y: net.second(y / y.shape[0]),
    "a share of the activated": lambda net, y: net.second(y.relu() * (1 / y.shape[0])),
    "as channels": lambda net, y: F.interpolate(net.second(y).view(1, -1, 4, 4), scale_factor=2).view(y.shape[0], 8, 8, 8),
}
COUNTED = {"stacked", "listed", "a share of the batch"}
"""Whose code goes by the number of samples, or whose weights take it in: right for the batch that they were compiled for alone."""
NOTHING_FOR_ONE = {"a share of the activated"}
"""In which an operation that computes has nothing to do for a batch of one, so that it was not planned."""


@pytest.mark.parametrize("compiled_for", [1, 2])
@pytest.mark.parametrize("name", ENDINGS)
def test_another_batch_is_right_or_refused(name: str, compiled_for: int) -> None:
    torch.manual_seed(0)
    model = Net(ENDINGS[name]).eval()
    one, three = torch.randn(compiled_for, 3, 4, 4), torch.randn(3, 3, 4, 4)
    compiled = hqc.compile(model, (one,), march="bayes", calibration_data=[(one,), (torch.randn(compiled_for, 3, 4, 4),)])
    _like(compiled.simulate(one), model(one))
    if name not in COUNTED and not (name in NOTHING_FOR_ONE and compiled_for == 1):
        _like(compiled.simulate(three), model(three))
        _like(compiled.fake_quant(three), model(three))
        return
    rules = r"right where .* as with the example inputs|computes other operations than for \[1, 3, 4, 4\]"
    with pytest.raises(ShapeError, match=rules):
        compiled.simulate(three)


def _like(found: Any, expected: Tensor) -> None:
    wanted = expected.detach().numpy()
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).mean() < 0.02 * np.abs(wanted).max()
