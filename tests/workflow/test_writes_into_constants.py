"""Writes in place into what is computed from parameters and buffers alone: no node of the plan, and calls of the emitted model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hqc
from hqc.march import set_march
from hqc.nn import QuantStub
from hqc.quantization import get_default_qat_qconfig, prepare_qat_fx
from hqc.quantization.switches import quantizing


class Network(nn.Module):
    """A linear layer and a table, which `change` makes of a parameter and a buffer."""

    def __init__(self, change: Callable[[Network, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 8))
        self.register_buffer("offset", torch.randn(4, 8))
        self.quant, self.linear, self.relu = QuantStub(), nn.Linear(8, 8), nn.ReLU(inplace=True)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self, self.linear(self.quant(x)), self.weight * 2)


def by_method(self: Network, y: Tensor, table: Tensor) -> Tensor:
    table.add_(self.offset)
    return y + table


def by_inplace_argument(self: Network, y: Tensor, table: Tensor) -> Tensor:
    F.relu(table, inplace=True)
    return y + table


def by_module(self: Network, y: Tensor, table: Tensor) -> Tensor:
    self.relu(table)
    return y + table


def into_part(self: Network, y: Tensor, table: Tensor) -> Tensor:
    table[1:3] = self.offset[1:3]
    table[0].mul_(5)
    return y + table


def through_view(self: Network, y: Tensor, table: Tensor) -> Tensor:
    flat = table.view(-1)
    flat += self.offset.view(-1)
    return y + table


def into_out(self: Network, y: Tensor, table: Tensor) -> Tensor:
    torch.add(self.offset, 1, out=table.detach())
    return y + table


def after_first_read(self: Network, y: Tensor, table: Tensor) -> Tensor:
    y = y + table
    table.add_(1)
    return y * table


def of_buffers_after_first_read(self: Network, y: Tensor, table: Tensor) -> Tensor:
    table = self.offset * 1  # no node: Python computes it while it is traced
    y = y + table
    table.add_(1)
    table[0] = 2.0
    return y * table


CHANGES = [by_method, by_inplace_argument, by_module, into_part, through_view, into_out, after_first_read]


@pytest.mark.parametrize("change", [*CHANGES, of_buffers_after_first_read], ids=lambda change: change.__name__)
def test_emitted_model_writes_what_the_model_writes(change: Callable[..., Tensor]) -> None:
    set_march("bayes")
    model, x = Network(change).eval(), torch.randn(1, 4, 8)
    expected = model(x)
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(x,))
    with quantizing(prepared, ()):
        torch.testing.assert_close(prepared.eval()(x), expected)
        result = prepared.train()(x)
        torch.testing.assert_close(result, expected)
    result.sum().backward()
    if change not in (into_out, of_buffers_after_first_read):
        assert prepared.weight.grad.abs().max() > 0
    torch.testing.assert_close(model(x), expected)  # the model's own tensors were not written


def test_simulated_model_has_the_written_values() -> None:
    model, x = Network(by_method).eval(), torch.randn(1, 4, 8)
    simulated = hqc.compile(model, (x,), march="bayes", calibration_data=[(x,)]).simulate(x)
    expected = model(x)
    assert (torch.as_tensor(simulated) - expected).abs().max() < 0.02 * expected.abs().max()
