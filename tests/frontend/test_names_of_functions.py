"""torch's functions under the names by which users import them: `from torch import zeros, is_tensor`."""

from __future__ import annotations

import logging
import sys

import pytest
import torch
from torch import Tensor, arange, full, is_floating_point, is_tensor, nn, roll, zeros
from torch import zeros as blank
from torch.nn.functional import one_hot

from hqc.frontend.fx import trace

ORIGINALS = dict(vars(sys.modules[__name__]))


def first_tensor(*items: object) -> Tensor:
    return next(item for item in items if is_tensor(item))  # type: ignore[misc]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = first_tensor(None, self.conv(x))
        if not is_tensor(y) or not is_floating_point(y):
            return y * 3
        count = y.shape[-1]
        y = y + arange(count) + zeros(y.shape[0], 6, count, count) + full((y.shape[0], 6, count, 1), 2.0)
        return y + one_hot(arange(count), count) + blank(y.shape[0], 1, 1, 1) + roll(y, count // 2, -1)


def test_traced_as_in_torchs_own_name(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = Network().eval()
    with caplog.at_level(logging.WARNING):
        traced = trace(model, (torch.randn(1, 3, 8, 8),))
    assert not caplog.records  # no second way was taken
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(traced(x), model(x))
    now = vars(sys.modules[__name__])
    assert all(now[name] is ORIGINALS[name] for name in ("arange", "blank", "full", "is_tensor", "one_hot", "roll", "zeros"))
