"""Steps in float16 and bfloat16 inside of forward: float32 in the graph, said to the user, compared with the model in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lowering_harness import Function, run_graph
from torch import nn

import hqc
from hqc.frontend.fx import lower_graph_module, trace
from hqc.frontend.fx.precision import Float32Steps
from hqc.frontend.fx.retrace import WARNINGS_META


def there_and_back(x: Any) -> Any:
    return (F.relu(x.half()) * 2).float()


def by_dtype(x: Any) -> Any:
    return F.softmax(x.to(torch.bfloat16), -1).to(dtype=torch.float32)


def by_name_of_a_type(x: Any) -> Any:
    return x.type("torch.HalfTensor").type(torch.FloatTensor) + 1


def of_a_constant(x: Any) -> Any:
    return x.type_as(torch.ones(1, dtype=torch.bfloat16)).float() * torch.full((3,), 0.25, dtype=torch.float16).float()


def made_half(x: Any) -> Any:
    return (x * torch.zeros_like(x, dtype=torch.float16).add(0.5)).sum(-1, dtype=torch.float32)


def returned(x: Any) -> Any:
    return x.bfloat16() - 1


def products(x: Any) -> Any:
    y = x.bfloat16()
    return (y @ y.transpose(0, 1)).float()


@pytest.mark.parametrize(
    "function", [there_and_back, by_dtype, by_name_of_a_type, of_a_constant, made_half, returned, products]
)
def test_steps_are_in_float32(function: Any) -> None:
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    traced = trace(Function(function), x)
    with Float32Steps() as steps:
        expected = function(x.clone())
    assert steps.met and expected.dtype is torch.float32
    torch.testing.assert_close(traced(x), expected)
    lowered = lower_graph_module(traced, x)
    found = run_graph(lowered, {lowered.graph.inputs[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected)
    assert any("test_precision.py:" in each and "float32" in each for each in traced.meta[WARNINGS_META])


def test_other_bits_of_the_same_memory_stay_what_they_are() -> None:
    with Float32Steps():
        assert torch.zeros(4, dtype=torch.int16).view(torch.float16).dtype is torch.float16


def test_stock_graphs_have_float32_too() -> None:
    stock = torch.fx.symbolic_trace(Function(there_and_back))
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    retraced = trace(stock, x)
    torch.testing.assert_close(retraced(x), F.relu(x) * 2)
    assert any("float16" in each for each in retraced.meta[WARNINGS_META])


class Autocast(nn.Module):
    """A layer under autocast, as training code leaves it in."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.conv(x).float() * self.factor


def test_a_model_under_autocast_is_compared_in_float32() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 8)
    compiled = hqc.compile(Autocast().eval(), x, march="bayes", calibration_data=[x])
    assert any("bfloat16" in str(remark) for remark in compiled.remarks)
