"""Tensors that forward makes of constants and then writes traced values into."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import hqc
from hqc.errors import TraceError
from hqc.frontend.fx import trace
from hqc.march import set_march
from hqc.nn import QuantStub
from hqc.quantization import FakeQuantState, get_default_qat_qconfig, prepare_qat_fx, set_fake_quantize


class Network(nn.Module):
    """`[1,3,8,8]` -> a convolution's `[1,6,8,8]`, of which `draw` makes the result."""

    def __init__(self, draw: Callable[[Network, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.quant, self.conv = QuantStub(), nn.Conv2d(3, 6, 3, padding=1)
        self.register_buffer("table", torch.ones(6, 8))
        self.kept = torch.zeros(6, 8)
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        return self.draw(self, self.conv(self.quant(x)))


def rows(self: Network, y: Tensor) -> Tensor:
    out = torch.zeros((8, 6))
    for row in range(8):
        out[row] = y[0, :, row].mean(-1)
    return out


def filled(self: Network, y: Tensor) -> Tensor:
    out = torch.empty(6, 8).fill_(0.5)
    out[:, 2:4] = y[0, :, 0, :2]
    return out


def through_views(self: Network, y: Tensor) -> Tensor:
    out = torch.zeros(6, 8, 8)
    row = out[2]
    row[:3] = y[0, 0, :3]
    row[3:] = 1
    return out


def in_a_list(self: Network, y: Tensor) -> Tensor:
    outs = [torch.zeros(8, 8) for _ in range(3)]
    for index, out in enumerate(outs):
        out[1:-1] += y[0, index, 1:-1]
    return torch.stack(outs)


def of_a_buffer(self: Network, y: Tensor) -> Tensor:
    table = self.table.clone()
    table[0] = y[0, 0, 0]
    return table * 2 + self.table


def of_numbers(self: Network, y: Tensor) -> Tensor:
    matrix = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    matrix[0, 0] = y.mean()
    return matrix @ y[0, :3].reshape(3, -1)


def at_the_inputs_place(self: Network, y: Tensor) -> Tensor:
    canvas = torch.zeros(8, 8).to(y.device).type_as(y)
    canvas[:4] = y[0, 1, :4]
    return canvas


def by_index(self: Network, y: Tensor) -> Tensor:
    canvas, at = torch.zeros(6, 64), torch.arange(8) * 3
    canvas[:, at] = y[0, :, 0]
    return canvas.view(6, 8, 8)


def beside_what_python_reads(self: Network, y: Tensor) -> Tensor:
    canvas, indices = torch.zeros(8), torch.arange(8)
    for index in indices.tolist():
        canvas[index] = y[0, 0, index].sum()
    return canvas + indices


def with_overlaps(self: Network, y: Tensor) -> Tensor:
    canvas = torch.zeros([1, 6, 12, 12])
    for i in (0, 4):
        for j in (0, 4):
            canvas[..., i : i + 8, j : j + 8] += y
    return canvas / 4


DRAWINGS = [
    rows, filled, through_views, in_a_list, of_a_buffer, of_numbers, at_the_inputs_place, by_index, beside_what_python_reads,
    with_overlaps,
]  # fmt: skip


@pytest.mark.parametrize("draw", DRAWINGS, ids=lambda draw: draw.__name__)
def test_graph_draws_anew_at_every_call(draw: Callable[[Network, Tensor], Tensor], caplog: pytest.LogCaptureFixture) -> None:
    set_march("bayes")
    model, x = Network(draw).eval(), torch.randn(1, 3, 8, 8)
    traced = trace(model, (x,))
    assert "torch.export" not in caplog.text
    for sample in (x, torch.randn(1, 3, 8, 8), x):
        torch.testing.assert_close(traced(sample), model(sample))
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(x,))
    set_fake_quantize(prepared, FakeQuantState.CALIBRATION)
    for sample in (x, torch.randn(1, 3, 8, 8), x):
        torch.testing.assert_close(prepared(sample), model(sample))
    prepared(x).sum().backward()
    assert prepared.conv.weight.grad.abs().sum() > 0


def test_whole_way() -> None:
    model, x = Network(with_overlaps).eval(), torch.randn(1, 3, 8, 8)
    simulated = torch.as_tensor(hqc.compile(model, (x,), march="bayes", calibration_data=[(x,)]).simulate(x))
    expected = model(x)
    assert (simulated - expected).abs().max() < 0.1 * expected.abs().max()


def test_what_the_model_keeps_is_not_drawn_on() -> None:
    def draw(self: Network, y: Tensor) -> Tensor:
        self.kept[0] = y[0, 0, 0]
        return self.kept * 1

    with pytest.raises(TraceError, match="writes a traced tensor into a tensor that it makes of constants"), torch.no_grad():
        hqc.explain(Network(draw).eval(), (torch.randn(1, 3, 8, 8),), march="bayes")
