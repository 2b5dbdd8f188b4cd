"""What a model computes for one shape and keeps: the graph computes it, whatever the model was run with before it was traced."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hqc.errors import TraceError
from hqc.frontend.fx import lower_graph_module, trace
from hqc.frontend.fx.assumptions import ASSUMPTIONS_META


class Kept(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.shape: Any = None
        self.dynamic = False
        self.points: Any = torch.empty(0)
        self.grids = [torch.empty(1)] * 2
        self.position: Any = None

    def rows(self, x: Tensor) -> Tensor:
        return torch.arange(x.shape[2], dtype=torch.float32).view(1, 1, -1, 1) + x.new_zeros(x.shape[0], 1, 1, x.shape[3])


class ByWholeShape(Kept):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        shape = x.shape
        if self.dynamic or self.shape != shape:
            self.points = self.rows(x)
            self.shape = shape
        return x + self.points


class ByGrid(Kept):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.grids[0].shape[2:4] != x.shape[2:4]:
            self.grids[0], self.grids[1] = self.rows(x)[:1], self.rows(x)[:1] * 2
        return x * 2 + self.grids[0] - self.grids[1]


class KeptOtherwise(Kept):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.shape is not None and self.shape == x.shape and not self.dynamic:
            pass
        else:
            self.points, self.shape = self.rows(x), x.shape
        return x + self.points


class ReturnsEarly(Kept):
    def extend(self, x: Tensor) -> None:
        if self.position is not None and self.position.shape[2] == x.shape[2]:
            return
        self.position = self.rows(x)[:1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.extend(x)
        return x + self.position[:, :, : x.shape[2]]


CACHES = [ByWholeShape, ByGrid, KeptOtherwise, ReturnsEarly]
X = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(2, 3, 6, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("before", [None, X, OTHER], ids=["fresh", "same shape", "other shape"])
@pytest.mark.parametrize("kind", CACHES)
def test_the_graph_is_right_for_every_shape(kind: type[Kept], before: Tensor | None) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    fresh = copy.deepcopy(model)
    if before is not None:
        model(before)
    traced = trace(model, (X,))
    assert traced.meta[ASSUMPTIONS_META] == []
    for x in (X, OTHER):
        torch.testing.assert_close(traced(x), copy.deepcopy(fresh)(x))
        assert lower_graph_module(traced, (x,)).graph.outputs[0].shape == (x.shape[0], 4, *x.shape[2:])


class Carries(Kept):
    """No cache: what a call leaves is the next one's input, and only its shape is asked."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.position is None or self.position.shape != x.shape:
            self.position = torch.zeros_like(x)
        self.position = 0.5 * self.position + x
        return self.position


def test_what_is_carried_to_the_next_call_is_refused() -> None:
    model = Carries().eval()
    for run in (False, True):
        if run:
            model(X)
        with pytest.raises(TraceError, match="position"):
            trace(model, (X,))


class GrowsFromItself(Kept):
    """No cache: what is kept is made of what was kept before."""

    def __init__(self) -> None:
        super().__init__()
        self.position = torch.linspace(0, 1, 4).view(1, 1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.position.shape[2] != x.shape[2]:
            self.position = nn.functional.interpolate(self.position, (x.shape[2], 1))
        return x + self.position


def test_what_is_made_of_itself_is_taken_as_it_is() -> None:
    model = GrowsFromItself().eval()
    traced = trace(model, (X,))
    torch.testing.assert_close(traced(X), model(X))
    assert [item.value for item in traced.meta[ASSUMPTIONS_META]] == [False]


class Grows(Kept):
    """No cache of one shape: what is kept depends on the longest input so far (as rotary embeddings that are scaled by it)."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 8

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] > self.length:
            self.length = x.shape[2]
        return self.conv(x) / self.length


def test_what_only_grows_is_as_it_was() -> None:
    model = Grows().eval()
    traced = trace(model, (X,))
    torch.testing.assert_close(traced(X), model(X))
    assert [item.value for item in traced.meta[ASSUMPTIONS_META]] == [False]


def test_what_torchs_parser_asks_is_not_assumed() -> None:
    class Tiles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.linspace(-1, 1, 12).view(1, 3, 4, 1))

        def forward(self, x: Tensor) -> Tensor:
            y = x + torch.tile(self.token, (x.size(0), 1, 1, x.size(3)))
            kernels = y.mean((2, 3)).view(-1, 1, 1, 1).expand(-1, -1, 2, 2)
            return nn.functional.conv2d(y.reshape(1, -1, y.size(2), y.size(3)), kernels, groups=y.size(0) * y.size(1))

    model, x = Tiles(), torch.randn(2, 3, 4, 4)
    traced = trace(model, (x,))
    assert traced.meta[ASSUMPTIONS_META] == []
    for given in (x, torch.randn(3, 3, 4, 5)):
        torch.testing.assert_close(traced(given), model(given))
