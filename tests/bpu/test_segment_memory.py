"""CPU segments with large values keep no memory between runs, and compute the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import hqc
from hqc.backends.bpu import fallback


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query = self.query(x).flatten(2)
        weights = (query.transpose(1, 2) @ query).cumsum(-1).softmax(-1)
        return (query @ weights).reshape(x.shape)


def test_only_segments_with_small_values_keep_an_arena(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 8, 8)
    model = hqc.compile(Attention().eval(), x, march="bayes", calibration_data=[x])
    kept: list[bool] = []
    session: Any = onnxruntime.InferenceSession

    def watched(data: bytes, options: Any, **named: Any) -> Any:
        kept.append(options.enable_cpu_mem_arena)
        return session(data, options, **named)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    first = model.simulate(x)
    assert kept and all(kept)
    monkeypatch.setattr(fallback, "_ARENA_BYTES", 64 * 64)  # of int8, and a quarter of what the products are in float32
    kept.clear()
    model.runner._cache.clear()
    np.testing.assert_array_equal(model.simulate(x), first)
    assert not all(kept)
