"""Functions that change the lists they are given (windows that shrink to the input), wherever a graph is run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from hqc.frontend.fx import trace
from hqc.workflow.references import ModelReference
from hqc.workflow.runs import Run


@fx.wrap
def smallest(sizes: Any, limits: Any) -> Any:
    for index, size in enumerate(sizes):
        limits[index] = min(size, limits[index])
    return limits


class Windows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        height, width = smallest([x.shape[2], x.shape[3]], [8, 3])
        return x.reshape(x.shape[0], -1, height, width).mean(1)


def test_graphs_are_run_with_lists_of_pythons_own() -> None:
    x = torch.arange(24.0).reshape(1, 1, 4, 6)
    expected = Windows()(x)
    traced = trace(Windows(), (x,))
    torch.testing.assert_close(Run(traced, (x,)).outputs, expected)
    found: dict[str, np.ndarray] = {}
    ModelReference(traced, (x,), ["y"]).visit({"x": x.numpy()}, lambda name, array: found.update({name: array.copy()}))
    assert any(array.shape == (1, 4, 3) and np.array_equal(array, expected.numpy()) for array in found.values())
