"""Objects in what a model returns: a cache of keys and values, a distribution. Their tensors are results like others."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import hqc
from hqc.errors import TraceError
from hqc.frontend.fx import trace

_T = torch.Tensor


class Layer:
    def __init__(self, keys: _T, values: _T, cache: Any) -> None:
        self.keys, self.values, self.cache = keys, values, cache
        self.dtype, self.length = keys.dtype, keys.shape[-2]


class Cache:
    """As libraries keep keys and values: objects in a list, which know what holds them."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.name, self.limits = "cache", [1, 2]

    def update(self, keys: _T, values: _T) -> None:
        self.layers.append(Layer(keys, values, self))


class Attention(nn.Module):
    def __init__(self, ending: Callable[[_T, Cache], Any]) -> None:
        super().__init__()
        self.keys, self.values, self.ending = nn.Linear(8, 8), nn.Linear(8, 8), ending

    def forward(self, x: _T) -> Any:
        cache, keys, values = Cache(), self.keys(x), self.values(x)
        cache.update(keys, values)
        return self.ending(torch.softmax(keys @ keys.transpose(-1, -2), -1) @ values, cache)


def _model(ending: Callable[[_T, Cache], Any]) -> tuple[nn.Module, _T]:
    torch.manual_seed(0)
    return Attention(ending).eval(), torch.randn(1, 4, 8)


def test_the_tensors_of_an_object_are_results(tmp_path: pathlib.Path) -> None:
    model, x = _model(lambda out, cache: {"out": out, "cache": cache})
    compiled = hqc.compile(model, (x,), march="bayes", calibration_data=[(x,)], effort="fast")
    found = compiled.simulate(x)
    with torch.no_grad():
        expected = model(x)["cache"].layers[0]
    assert set(found) == {"out", "cache"} and list(found["cache"]) == ["layers"]
    (layer,) = found["cache"]["layers"]
    assert list(layer) == ["keys", "values"]
    assert np.abs(layer["keys"] - expected.keys.numpy()).max() < 0.05
    assert np.abs(layer["values"] - expected.values.numpy()).max() < 0.05
    path = tmp_path / "net.onnx"
    assert compiled.export(path, flavour="runnable").executed
    assert len(onnx.load(path).graph.output) == 3


def test_a_distribution_is_its_parameters() -> None:
    model, x = _model(lambda out, cache: torch.distributions.Normal(out, out.exp(), validate_args=False))
    found = trace(model, (x,))(x)
    with torch.no_grad():
        expected = model(x)
    torch.testing.assert_close(found["loc"], expected.loc)
    torch.testing.assert_close(found["scale"], expected.scale)


def test_an_object_without_example_inputs() -> None:
    model, x = _model(lambda out, cache: (out, cache))
    _, cache = trace(model)(x)
    torch.testing.assert_close(cache["layers"][0]["values"], model(x)[1].layers[0].values)


def test_an_object_in_what_torch_export_traces() -> None:
    model, x = _model(lambda out, cache: (out + torch.vmap(lambda row: row.sum())(out)[..., None], cache))
    traced = trace(model, (x,))
    assert any("torch.export" in each for each in traced.meta["hqc_warnings"])
    out, cache = traced(x)
    torch.testing.assert_close(out, model(x)[0])
    torch.testing.assert_close(cache["layers"][0]["keys"], model(x)[1].layers[0].keys)


def test_an_object_without_tensors_is_refused() -> None:
    model, x = _model(lambda out, cache: (out, pathlib.PurePosixPath("x")))
    with pytest.raises(TraceError, match="returns, a PurePosixPath, which holds no tensors"):
        trace(model, (x,))
