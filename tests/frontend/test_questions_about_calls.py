"""What code asks about calls: whether something can be called, and whether a layer takes an argument."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hqc.frontend.fx import trace


def default(value: Any, other: Any) -> Any:
    if value is not None:
        return value
    return other() if callable(other) else other


class Defaults(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        y = self.conv(x)
        view = y.flatten
        return default(context, y) + default(None, lambda: y * 2) + (view(2).mean() if callable(view) else 0)


class Layers(nn.Module):
    """A container that gives every layer what only some take."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 6, 1), nn.LeakyReLU(), nn.Flatten(2), nn.Linear(64, 5)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            try:
                x = layer(x, lengths=None)
            except TypeError:
                x = layer(x)
        return x


@pytest.mark.parametrize("network", [Defaults, Layers], ids=lambda network: network.__name__)
def test_answered_as_without_a_trace(network: Callable[[], nn.Module], caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = network().eval()
    with caplog.at_level(logging.WARNING):
        traced = trace(model, (torch.randn(1, 3, 8, 8),))
    assert not caplog.records
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(traced(x), model(x))
